"""The only HTTP server: the registry API, health and metrics."""
