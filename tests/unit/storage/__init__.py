"""Tests of mirror/storage/."""
