"""Results to tables, HTML and JSON; runs without torch."""
