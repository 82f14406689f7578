"""Pre-training of small models from plain text: objectives, warm start, runs that resume."""
