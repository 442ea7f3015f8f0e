"""Keychain: choose the credentials for each upstream from password files, credential helpers and docker's config.json.

The keys in the upstream's own section take precedence over docker's config.json. Without either, access is anonymous.
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

_DOCKER_HUB_SERVER = "https://index.docker.io/v1/"  # its name in `docker login`


class Keychain:
    """Factory of the credential source of each endpoint."""

    def __init__(self, settings: CredentialSettings) -> None:
        """Create the keychain and read `docker_config`, if set.

        Raises:
            ConfigurationInvalid: if that file can't be read or parsed.
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
        """Return the source of credentials for *url*, one of the addresses of the upstream *name*.

        Helpers and config.json are queried for the host of *url*, so a secret never goes to another host.

        Raises:
            ConfigurationInvalid: if the upstream's password_file can't be used.
        """
        section, host = f'[upstreams."{name}"]', host_of(urlsplit(url).netloc)
        if settings.username is not None and settings.password_file is not None:
            file = SecretFile(f"upstreams.{name}.password_file", settings.password_file, _password)
            return _FromFile(settings.username, file, section)
        if settings.credential_helper is not None:
            return _FromHelper(_request(settings.credential_helper, host), self._helpers, section)
        if self._config is not None and self._config_path is not None:
            return _FromDockerConfig(self._config_path, self._config, host, self._helpers)
        if settings.client_auth == "passthrough":  # which excludes the keys of a login in the section
            return FixedCredentials(None, fix=f"name a file with a login for {host} in credentials.docker_config")
        return FixedCredentials(None, fix=f"set username and password_file, or credential_helper, in {section}")


class _FromFile:
    """A configured user name, with the password in a file."""

    is_anonymous = False

    def __init__(self, username: str, file: SecretFile[str], section: str) -> None:
        self._username = username
        self._file = file
        self.fix = f"check username and password_file in {section}"

    async def credentials(self) -> Credentials | None:
        return self._login()

    def holds(self, credentials: Credentials | None) -> bool:
        return credentials == self._login()

    async def renewed(self, refused: Credentials | None) -> bool:
        return refused != self._login(at_once=True)

    def _login(self, *, at_once: bool = False) -> Login:
        return Login(self._username, self._file.content(at_once=at_once))


class _FromHelper:
    """A configured credential helper."""

    is_anonymous = False

    def __init__(self, request: HelperRequest, helpers: CredentialHelpers, section: str) -> None:
        self._request = request
        self._helpers = helpers
        self.fix = f"check what {request} returns (credential_helper in {section})"

    async def credentials(self) -> Credentials | None:
        return await self._helpers.ask(self._request)

    def holds(self, credentials: Credentials | None) -> bool:
        return credentials == self._helpers.last(self._request)

    async def renewed(self, refused: Credentials | None) -> bool:
        await self._helpers.renew(self._request, refused)
        return not self.holds(refused)


class _FromDockerConfig:
    """The entry of one host in config.json: its credential helper, or else its login."""

    def __init__(self, path: Path, file: SecretFile[DockerConfig], host: str, helpers: CredentialHelpers) -> None:
        self._file = file
        self._host = host
        self._helpers = helpers
        self.fix = f"log in to {host} with docker login, so that {path} has it"

    @property
    def is_anonymous(self) -> bool:
        return self._entry() == (None, None)

    async def credentials(self) -> Credentials | None:
        request, login = self._entry()
        found = None if request is None else await self._helpers.ask(request)
        return login if found is None else found

    def holds(self, credentials: Credentials | None) -> bool:
        request, login = self._entry()
        found = None if request is None else self._helpers.last(request)
        return credentials == (login if found is None else found)

    async def renewed(self, refused: Credentials | None) -> bool:
        request, _ = self._entry(at_once=True)
        if request is not None and self.holds(refused):
            await self._helpers.renew(request, self._helpers.last(request))
        return not self.holds(refused)

    def _entry(self, *, at_once: bool = False) -> tuple[HelperRequest | None, Credentials | None]:
        config = self._file.content(at_once=at_once)
        helper = config.helper(self._host)
        return None if helper is None else _request(helper, self._host), config.logins.get(self._host)


def _request(helper: str, host: str) -> HelperRequest:
    return HelperRequest(f"docker-credential-{helper}", _DOCKER_HUB_SERVER if host == DOCKER_HUB else host)


def _password(content: bytes) -> str:
    try:
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
