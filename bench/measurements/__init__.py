"""Measurements, one per module: `measure(stage)` runs it and returns its rows of the table."""
