"""The embedded upstreams: names and URLs. Without pydantic, for commands that need nothing else of the settings."""

from __future__ import annotations

from mirror.oci.names import DOCKER_HUB

DEFAULT_UPSTREAMS = {
    DOCKER_HUB: "https://registry-1.docker.io",
    "quay.io": "https://quay.io",
    "ghcr.io": "https://ghcr.io",
    "gcr.io": "https://gcr.io",
    "registry.k8s.io": "https://registry.k8s.io",
    "mcr.microsoft.com": "https://mcr.microsoft.com",
    "public.ecr.aws": "https://public.ecr.aws",
    "nvcr.io": "https://nvcr.io",
}
