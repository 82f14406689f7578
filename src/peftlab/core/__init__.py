"""Plain data, contracts, registry, options, errors and seeds; no heavy import."""
