"""The only HTTP client: requests to registries, their authorization, and errors in the mirror's own terms."""
