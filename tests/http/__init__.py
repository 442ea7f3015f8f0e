"""The mirror seen over HTTP: clients that are exact about bytes, registries that misbehave on demand."""
