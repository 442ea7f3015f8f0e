"""Soak test, `python -m tests.soak`: many clients, a mirror and failing upstreams, for minutes.

The faults of the upstreams are called weather: bad weather excuses failed requests, but never wrong bytes.

model      the allowed responses; checks every response
weather    faults of the upstreams, and when they excuse a failure
clients    the clients, and how they pull
service    the mirror: starts, restarts and kills it, and checks its cache directory after each
gauges     resource use of the mirror
report     the figures, as Markdown
run        the phases of a run
"""
