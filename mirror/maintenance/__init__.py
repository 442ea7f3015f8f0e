"""Background and on-demand care for a cache: periodic tasks, scrubbing, verification, rebuilding."""
