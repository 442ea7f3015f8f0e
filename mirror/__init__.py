"""A pull-through caching mirror for container images.

Packages in dependency order: each imports only packages of the lines above its own.

    errors                        every failure that the mirror names
    oci  primitives               the specifications' values and grammars, pure; LRU, singleflight, semaphores
    auth  clients  observability  users and access rules; client configuration files; log, metrics, version
    config  origin                validated settings; the pull context and the protocol of blob origins
    storage  upstream             blobs and facts on disk; the only HTTP client
    catalog                       manifests, images and rights in the cache
    pull                          a pull from request to answer: hit, join, download, revalidate, stale
    server  admin  maintenance    the only HTTP server; the admin socket; periodic tasks and verification
    airgap  assembly              bundles for closed networks; construction and lifetimes of all parts
    doctor                        checks of everything that the mirror needs, each with its fix
    cli                           the commands
    __main__                      the program

A hit: `server/listener` accepts, `server/app` authenticates and parses the request (`oci/routes`), `pull/service`
decides (`pull/freshness`), `storage` opens the blob, and `server/response_writer` sends it. A miss: `pull/service`
joins or starts a download (`pull/downloads`); its task copies bytes from an origin into an ingest of `storage`, and
every reader follows the growing file. A tag: a fact in `storage`, fresh, revalidated or stale.
"""
