"""In-memory registry with injectable faults, for tests of the mirror.

content    blobs, manifests and images, generated for each test
journal    the requests received, and how each response ended
answers    a planned response: status, headers, byte range, stops
faults     the ways in which a response can be wrong, as values that modify a planned response
origin     an HTTP server with a journal and faults
registry   the registry itself;  tokens, cdn   its token service and its object storage
"""
