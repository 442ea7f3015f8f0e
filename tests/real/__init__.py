"""Real programs, started and stopped by the tests: registries, container engines, and the mirror between them.

program.py     a program of this machine: started, watched, ended by its own process id
images.py      images made from nothing but bytes
registry.py    docker-registry, the upstream
tokens.py      an issuer of Bearer tokens beside docker-registry
mirror.py      `python -m mirror serve`
containerd.py  docker.py  podman.py  skopeo.py    the clients
"""
