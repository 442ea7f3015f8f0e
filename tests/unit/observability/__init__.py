"""Tests of mirror/observability/."""
