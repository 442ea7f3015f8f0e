"""What the documents say, checked against what is so.

reference.py    writes docs/configuration.md and config/mirror.toml from the settings: `make reference`
"""
