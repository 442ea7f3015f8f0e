"""A token service for a docker-registry with `auth: token`.

The registry trusts tokens signed by the key of a given certificate. Key and certificate are generated for each service,
and the tokens are signed with `openssl` (RS256, the certificate in the token's `x5c`).
"""

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from tests.real.program import succeeded

SERVICE = "registry.test"
ISSUER = "tokens.test"


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One request for a token."""

    scopes: tuple[str, ...]
    service: str | None
    authorization: str | None


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class TokenIssuer:
    """Grants every request the scopes it names, and records it.

    It is also a registry's authenticator: `configuration` names the realm, and a push uses its own token.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = directory / "key.pem"
        self._certificate = directory / "certificate.pem"
        self.port = 0
        self.requests: list[TokenRequest] = []

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self.port}/token"

    async def make_key(self) -> None:
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens.test"]
        await succeeded(*request, "-keyout", str(self._key), "-out", str(self._certificate))

    async def token(self, scopes: tuple[str, ...]) -> str:
        """Return a signed token (JWT) that grants all of *scopes* for five minutes."""
        lines = self._certificate.read_text().splitlines()
        header = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(line for line in lines if not line.startswith("-"))]}
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": "", "aud": SERVICE, "iat": now, "nbf": now - 10, "exp": now + 300}
        parts = [header, {**claims, "jti": str(time.monotonic_ns()), "access": [_access(scope) for scope in scopes]}]
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in parts)
        unsigned = self._directory / f"{time.monotonic_ns()}.unsigned"
        signature = unsigned.with_suffix(".signature")
        unsigned.write_text(signed)
        sign = ["openssl", "dgst", "-sha256", "-sign", str(self._key), "-out", str(signature), str(unsigned)]
        await succeeded(*sign)
        return f"{signed}.{_base64url(signature.read_bytes())}"

    def configuration(self) -> dict[str, object]:
        trust = {"realm": self.realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(self._certificate)}
        return {"token": trust}

    async def authorization(self, repository: str) -> str | None:
        return f"Bearer {await self.token((f'repository:{repository}:pull,push',))}"

    async def answer(self, request: web.Request) -> web.Response:
        scopes = tuple(request.query.getall("scope", []))
        self.requests.append(TokenRequest(scopes, request.query.get("service"), request.headers.get("Authorization")))
        return web.json_response({"token": await self.token(scopes), "expires_in": 300})


def _access(scope: str) -> dict[str, object]:
    kind, name, actions = scope.split(":")
    return {"type": kind, "name": name, "actions": actions.split(",")}


@asynccontextmanager
async def token_issuer(directory: Path) -> AsyncIterator[TokenIssuer]:
    """Run a token service on loopback until the end of the block."""
    directory.mkdir(parents=True, exist_ok=True)
    issuer = TokenIssuer(directory)
    await issuer.make_key()
    app = web.Application()
    app.router.add_get("/token", issuer.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        issuer.port = runner.addresses[0][1]
        yield issuer
    finally:
        await runner.cleanup()
