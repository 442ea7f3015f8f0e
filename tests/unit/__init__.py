"""Unit tests: properties of pure functions, and state machines for the store and the downloads."""
