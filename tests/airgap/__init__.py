"""Images brought in, carried over and kept, with the commands that people use for it."""
