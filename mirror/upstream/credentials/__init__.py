"""Credentials for upstreams: where they come from, and the bearer tokens that they buy."""
