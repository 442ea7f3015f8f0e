"""Whether the mirror of this container answers: exit status 0 or 1. It listens where MIRROR_LISTEN says, TLS or not."""

import http.client
import os
import ssl
import sys

_WITHIN = 4.0  # seconds


def is_alive(host: str, port: int) -> bool:
    """Whether /healthz is answered, in plain HTTP or over TLS; whose certificate it is does not matter here."""
    context = ssl._create_unverified_context()  # noqa: S323, SLF001 - this asks nothing but whether somebody is there
    plain = http.client.HTTPConnection(host, port, timeout=_WITHIN)
    for connection in (plain, http.client.HTTPSConnection(host, port, timeout=_WITHIN, context=context)):
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return True
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
    return False


if __name__ == "__main__":
    address, _, number = os.environ.get("MIRROR_LISTEN", "127.0.0.1:5000").rpartition(":")
    everywhere = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}  # noqa: S104 - read here, listened on elsewhere
    sys.exit(not is_alive(everywhere.get(address, address.strip("[]")), int(number)))
