"""Credentials for upstreams: their sources, and the bearer tokens requested with them."""
