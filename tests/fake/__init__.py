"""A registry that misbehaves on demand.

content    blobs, manifests, images: made up for each test
journal    what was asked, and how each answer ended
answers    an answer as a plan: status, headers, span, halts
faults     what can go wrong, as values that bend an answer
origin     a server with a journal and faults
registry   the registry itself;  tokens, cdn   its token server and its object storage
"""
