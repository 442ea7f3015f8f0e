"""Tests of mirror/catalog/."""
