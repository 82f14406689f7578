"""The built-in image models: generated images, the script that learns from them, the loader."""
