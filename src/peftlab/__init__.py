"""peftlab: know what is in a fine-tune before you ship it."""

__version__ = "0.1.0"
