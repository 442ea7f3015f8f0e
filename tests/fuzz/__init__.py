"""Inputs that nobody would send: `python -m tests.fuzz`.

Three targets, in the order of how far an input gets: the parsers by themselves; a mirror's socket; and the mirror's
other side, where a hostile registry answers it. Each input is made of the seed and its own number, so that one that
breaks something can be made again by itself.
"""
