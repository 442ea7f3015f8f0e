"""The only HTTP client: asks registries as a well-behaved client would, and answers in the mirror's own words."""
