"""Maintenance of a cache: periodic tasks, the scrub, verification, and rebuilding a lost fact database."""
