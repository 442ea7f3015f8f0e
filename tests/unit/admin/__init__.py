"""Tests of mirror/admin/."""
