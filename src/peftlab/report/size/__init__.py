"""The page of a data-set size bench or of one prediction."""
