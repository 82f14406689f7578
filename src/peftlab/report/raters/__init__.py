"""The page and the tables of a rater-group audit: which groups have a perspective of their own."""
