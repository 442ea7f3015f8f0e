"""Tests of mirror/primitives/."""
