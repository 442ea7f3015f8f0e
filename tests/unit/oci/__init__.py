"""Tests of mirror/oci/."""
