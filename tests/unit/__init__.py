"""Properties of what is pure, and machines that drive what has state."""
