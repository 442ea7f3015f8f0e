"""Data structures and concurrency primitives without domain knowledge: LRU, hints, singleflight, semaphore, buffers."""
