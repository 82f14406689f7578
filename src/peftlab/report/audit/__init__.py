"""What an audit found: for the terminal, as a page, as SARIF for code scanning."""
