"""Real clients pull real images through the real mirror from real registries, and nothing is imported from it."""
