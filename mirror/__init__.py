"""A pull-through caching mirror for container images.

The house. Nothing imports what stands below it; neighbours on one line do not import each other.

    errors                              every failure the mirror names
    oci/                                the vocabulary, pure: digests, names, routes, ranges, challenges, manifests
    policy  access  clients/            pure decisions: is this tag fresh? who may pull what? what do clients read?
    config                              TOML, environment and flags -> validated settings
    metrics  hints  recent  collapse  belt  log  progress  placement    what parts stand on: figures, memory, …
    users  guesses                      who may come in: htpasswd, logins checked beside the loop; wrong ones
    storage/                            bytes and facts at rest
    upstream/                           the only HTTP client
    tenancy                             upstreams that say themselves who may pull what
    downloads                           one download for each digest, many readers
    passages                            content on its way through, unstored
    outcomes  questions                 what a pull comes to; on what terms upstreams are asked
    lists                               what upstream says it has, and said before
    pulls                               a pull, from question to answer
    closures                            what an image needs of what is stored, and what refers to it
    images  warming                     what of the cache has a name, and stays; images brought in without a client
    server/                             the only HTTP server
    control                             what commands ask of the mirror that holds the cache
    upkeep  verification  warmth        the clock; a look at all that is stored; how far a warming has come
    airgap/                             images carried by hand: bundles, written and read
    assembly                            builds the parts and nests their lifetimes
    examination/                        whether all that the mirror needs is there, and what cures what is not
    cli/                                the commands
    __main__                            the program

A hit: `server.door` lets the request in, `server.app` parses it (`oci.routes`), `pulls` decides (`policy`), `storage`
opens the blob, and `server.wire` sends it. A miss: `pulls` joins or begins a download; its task takes bytes from
`upstream` into an ingest of `storage`, and each reader follows the growing file. A tag: a fact in the ledger, fresh,
revalidated or stale.
"""
