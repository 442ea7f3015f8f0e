"""Data structures and concurrency primitives without domain knowledge: LRU, singleflight, fair semaphore."""
