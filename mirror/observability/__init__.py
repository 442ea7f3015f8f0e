"""Structured log events and Prometheus metrics."""
