"""Tests of the files in deploy/: validated by the tools that read them, and run where that is possible."""
