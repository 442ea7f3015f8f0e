"""A pull-through caching mirror for container images.

The house. Nothing imports what stands below it; neighbours on one line do not import each other.

    errors                              every failure the mirror names
    oci/                                the vocabulary, pure: digests, names, routes, ranges, challenges, manifests
    policy                              pure decisions: is this tag fresh? which blobs to evict?
    config                              TOML, environment and flags -> validated settings
    metrics  hints  recent  collapse  log     what several parts stand on: figures, memory with an end, single flight
    storage/                            bytes and facts at rest
    upstream/                           the only HTTP client
    downloads                           one download for each digest, many readers
    passages                            content on its way through, unstored
    outcomes                            what a pull comes to
    pulls                               a pull, from question to answer
    server/                             the only HTTP server
    upkeep                              the clock
    cli                                 the commands
    __main__                            builds the parts and nests their lifetimes

A hit: `server.app` parses the request (`oci.routes`), `pulls` decides (`policy`), `storage` opens the blob, and
`server.wire` sends it. A miss: `pulls` joins or begins a download; its task takes bytes from `upstream` into an ingest
of `storage`, and each reader follows the growing file. A tag: a fact in the ledger, fresh, revalidated or stale.
"""
