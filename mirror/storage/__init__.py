"""Bytes and facts at rest: the cache directory, its space, and the fact database."""
