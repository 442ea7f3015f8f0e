"""`python -m tests.soak`: many clients, a mirror, and upstreams in bad weather, for minutes.

model      what must hold, and what was seen: every answer is judged here
weather    what befalls the upstreams, and when it is an excuse
clients    who pulls, and how
service    the mirror: started, restarted, killed; and what it must leave behind
gauges     what the mirror takes of its machine
report     the figures, for a person
run        the phases, from the first start to the last calm
"""
