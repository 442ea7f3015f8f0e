"""The keyring: the credentials that the configuration names, in its order: an upstream's own keys come first, what
`docker login` left comes next, and then there is nobody.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from mirror.config import CredentialSettings, UpstreamSettings
from mirror.oci.authorization import Login
from mirror.oci.names import DOCKER_HUB
from mirror.upstream.credentials.credential_helper import CredentialHelpers, HelperRequest
from mirror.upstream.credentials.docker_config import DockerConfig, host_of
from mirror.upstream.credentials.secret_file import SecretFile
from mirror.upstream.credentials.source import Credentials, CredentialSource, FixedCredentials

_DOCKER_HUB_SERVER = "https://index.docker.io/v1/"  # what `docker login` calls it


class Keychain:
    """Says where each endpoint's credentials come from."""

    def __init__(self, settings: CredentialSettings) -> None:
        """Reads docker_config.

        Raises:
            ConfigurationInvalid
        """
        self._helpers = CredentialHelpers(timeout=settings.helper_timeout)
        self._config_path = settings.docker_config
        self._config = None
        if settings.docker_config is not None:
            self._config = SecretFile("credentials.docker_config", settings.docker_config, DockerConfig.parse)

    async def __aenter__(self) -> Self:
        await self._helpers.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._helpers.__aexit__(kind, error, trace)

    def source(self, name: str, settings: UpstreamSettings, url: str) -> CredentialSource:
        """Whom to ask as at *url*, one of the addresses of the upstream *name*.

        A program or a config.json is asked by the host of *url*: no secret goes to a host that it was not kept for.

        Raises:
            ConfigurationInvalid: the upstream's password_file can't be used.
        """
        section, host = f'[upstreams."{name}"]', host_of(urlsplit(url).netloc)
        if settings.username is not None and settings.password_file is not None:
            file = SecretFile(f"upstreams.{name}.password_file", settings.password_file, _password)
            return _FromFile(settings.username, file, section)
        if settings.credential_helper is not None:
            return _FromHelper(_enquiry(settings.credential_helper, host), self._helpers, section)
        if self._config is not None and self._config_path is not None:
            return _FromDockerConfig(self._config_path, self._config, host, self._helpers)
        return FixedCredentials(None, cure=f"set username and password_file, or credential_helper, in {section}")


class _FromFile:
    """A name, and a password in a file."""

    def __init__(self, username: str, file: SecretFile[str], section: str) -> None:
        self._username = username
        self._file = file
        self.cure = f"check username and password_file in {section}"

    async def credentials(self) -> Credentials | None:
        return self._login()

    def holds(self, credentials: Credentials | None) -> bool:
        return credentials == self._login()

    async def renewed(self, refused: Credentials | None) -> bool:
        return refused != self._login(at_once=True)

    def _login(self, *, at_once: bool = False) -> Login:
        return Login(self._username, self._file.content(at_once=at_once))


class _FromHelper:
    """A credential helper that the configuration names."""

    def __init__(self, enquiry: HelperRequest, helpers: CredentialHelpers, section: str) -> None:
        self._enquiry = enquiry
        self._helpers = helpers
        self.cure = f"check what {enquiry} says (credential_helper in {section})"

    async def credentials(self) -> Credentials | None:
        return await self._helpers.ask(self._enquiry)

    def holds(self, credentials: Credentials | None) -> bool:
        return credentials == self._helpers.last(self._enquiry)

    async def renewed(self, refused: Credentials | None) -> bool:
        await self._helpers.renew(self._enquiry, refused)
        return not self.holds(refused)


class _FromDockerConfig:
    """What config.json says of one host: the helper that it names, or else a login."""

    def __init__(self, path: Path, file: SecretFile[DockerConfig], host: str, helpers: CredentialHelpers) -> None:
        self._file = file
        self._host = host
        self._helpers = helpers
        self.cure = f"log in to {host} with docker login, so that {path} has it"

    async def credentials(self) -> Credentials | None:
        enquiry, login = self._entry()
        found = None if enquiry is None else await self._helpers.ask(enquiry)
        return login if found is None else found

    def holds(self, credentials: Credentials | None) -> bool:
        enquiry, login = self._entry()
        found = None if enquiry is None else self._helpers.last(enquiry)
        return credentials == (login if found is None else found)

    async def renewed(self, refused: Credentials | None) -> bool:
        enquiry, _ = self._entry(at_once=True)
        if enquiry is not None and self.holds(refused):
            await self._helpers.renew(enquiry, self._helpers.last(enquiry))
        return not self.holds(refused)

    def _entry(self, *, at_once: bool = False) -> tuple[HelperRequest | None, Credentials | None]:
        config = self._file.content(at_once=at_once)
        helper = config.helper(self._host)
        return None if helper is None else _enquiry(helper, self._host), config.logins.get(self._host)


def _enquiry(helper: str, host: str) -> HelperRequest:
    return HelperRequest(f"docker-credential-{helper}", _DOCKER_HUB_SERVER if host == DOCKER_HUB else host)


def _password(content: bytes) -> str:
    try:
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
