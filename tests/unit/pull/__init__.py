"""Tests of mirror/pull/."""
