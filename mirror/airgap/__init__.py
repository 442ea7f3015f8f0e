"""Images carried by hand into networks that have no way out: bundles, written here and read there."""
