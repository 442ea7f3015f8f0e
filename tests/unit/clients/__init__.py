"""Tests of mirror/clients/."""
