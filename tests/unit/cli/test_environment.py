"""Environment variables with the mirror's prefix: valid, foreign and misspelled ones."""

import pytest

from mirror.cli.environment import refuse_misspelled_variables
from mirror.errors import ConfigurationInvalid
from tests.docs import reference

KUBERNETES = (  # of services called mirror, mirror-cache and mirror-server
    "MIRROR_PORT",
    "MIRROR_SERVICE_HOST",
    "MIRROR_SERVICE_PORT",
    "MIRROR_SERVICE_PORT_REGISTRY",
    "MIRROR_PORT_5000_TCP",
    "MIRROR_PORT_5000_TCP_ADDR",
    "MIRROR_PORT_5000_TCP_PORT",
    "MIRROR_PORT_5000_TCP_PROTO",
    "MIRROR_CACHE_PORT",
    "MIRROR_CACHE_SERVICE_HOST",
    "MIRROR_SERVER_PORT",
    "MIRROR_SERVER_SERVICE_HOST",
)


def test_documented_and_kubernetes_variables_are_accepted() -> None:
    """Variables without the prefix are accepted too."""
    own = [key.variable for section in ("server", "cache", "tags", "log") for key in reference.keys(section)]

    refuse_misspelled_variables(
        ["HOME", "MIRROR", "MIRRORS_LIST", "MIRROR_CONFIG", "MIRROR_UPSTREAM", *own, *KUBERNETES]
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("MIRROR_UPSTREAMS", "write MIRROR_UPSTREAM"),
        ("MIRROR_LOG_LEVEL", "write MIRROR_LOG__LEVEL"),
        ("MIRROR_OFLINE", "write MIRROR_OFFLINE"),
        ("MIRROR_CAHCE__PATH", "no section cahce"),
    ],
)
def test_misspelled_variable_is_refused(name: str, said: str) -> None:
    """The message names the correct one."""
    with pytest.raises(ConfigurationInvalid, match=said):
        refuse_misspelled_variables(["PATH", name])
