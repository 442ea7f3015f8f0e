"""Bytes and facts at rest: the cache directory, its space, and the fact database.

Blobs: `disk` is the store, over `layout` (paths and the commit), `ingest`, `lru_inventory` (the LRU order) and `space`
(max_size and min_free). Facts: values in `facts`, kept by `fact_store` as rows (`fact_rows`) of a SQLite `database`.
"""
