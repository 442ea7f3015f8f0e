"""Which manifests, images and rights the cache holds, on top of the facts in storage."""
