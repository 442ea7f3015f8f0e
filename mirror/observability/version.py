"""The version of this release. importlib.metadata would take 50 ms to find it; a test compares pyproject.toml."""

VERSION = "0.1.0"
