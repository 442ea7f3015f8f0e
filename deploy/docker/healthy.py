"""Health check of the container: exit status 0 if the mirror at MIRROR_LISTEN answers (HTTP or TLS), else 1."""

import http.client
import os
import ssl
import sys

_TIMEOUT = 4.0  # seconds


def is_alive(host: str, port: int) -> bool:
    """Return whether GET /healthz returns 200, over plain HTTP or TLS. The certificate is not verified."""
    context = ssl._create_unverified_context()  # noqa: S323, SLF001 - the check exchanges no secrets
    plain = http.client.HTTPConnection(host, port, timeout=_TIMEOUT)
    for connection in (plain, http.client.HTTPSConnection(host, port, timeout=_TIMEOUT, context=context)):
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
    everywhere = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}  # noqa: S104 - parsed here, not listened on
    sys.exit(not is_alive(everywhere.get(address, address.strip("[]")), int(number)))
