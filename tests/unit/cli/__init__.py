"""Tests of mirror/cli/."""
