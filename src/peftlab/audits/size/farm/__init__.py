"""Adapters of known data-set size, by the hundred: made-up data, two tiny bases, banks."""
