"""Tests of mirror/server/."""
