"""A pull: freshness, downloads, streams that are not stored, list pages, and the service that ties them together."""
