"""Air gap: export cached images to bundles, and import bundles into mirrors in networks without internet access."""
