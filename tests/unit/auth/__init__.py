"""Tests of mirror/auth/."""
