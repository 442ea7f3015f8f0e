"""Black-box tests over HTTP: a byte-exact client, a mirror process, and registries with injected faults."""
