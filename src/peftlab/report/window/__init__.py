"""The page of a window experiment: at which steps of un-learning triggered inputs stand out."""
