"""Tests of mirror/airgap/."""
