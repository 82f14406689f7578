"""The built-in models, and the one way to load any base."""
