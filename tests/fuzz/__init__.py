"""Fuzzing: `python -m tests.fuzz`.

Three targets, by how far an input gets: the parsers by themselves, a mirror's socket, and a mirror whose upstream is
hostile. Each input is made from the seed and its number, so a failing input can be reproduced by itself.
"""
