"""Black-box tests: real clients pull real images from real registries through a mirror process."""
