"""Tensor code: encoding, scoring, the training loop."""
