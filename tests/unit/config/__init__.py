"""Tests of mirror/config/."""
