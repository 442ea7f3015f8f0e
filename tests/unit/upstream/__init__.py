"""Tests of mirror/upstream/."""
