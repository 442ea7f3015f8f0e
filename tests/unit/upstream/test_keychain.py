"""Keychain: which upstreams have no login, and the advice for these."""

import json
from pathlib import Path

import pytest

from mirror.config import CredentialSettings, UpstreamSettings
from mirror.upstream.credentials.keychain import Keychain

URL = "https://quay.io"


@pytest.mark.parametrize(
    ("keys", "advice"),
    [
        ({}, 'set username and password_file, or credential_helper, in [upstreams."quay.io"]'),
        ({"client_auth": "passthrough"}, "name a file with a login for quay.io in credentials.docker_config"),
        ({"username": "me", "password_file": "password"}, None),
        ({"credential_helper": "ecr-login"}, None),
    ],
)
def test_advice_for_an_upstream_without_a_login(tmp_path: Path, keys: dict[str, str], advice: str | None) -> None:
    """It names keys that the section may have: passthrough excludes a login there."""
    (tmp_path / "password").write_text("secret")
    settings = UpstreamSettings.model_validate({"url": URL, **keys})
    if settings.password_file is not None:
        settings = settings.model_copy(update={"password_file": tmp_path / settings.password_file})
    source = Keychain(CredentialSettings()).source("quay.io", settings, URL)
    assert source.is_anonymous == (advice is not None)
    assert advice is None or source.fix == advice


@pytest.mark.parametrize(
    ("content", "anonymous"),
    [
        ({"auths": {"quay.io": {"auth": "bWU6c2VjcmV0"}}}, False),
        ({"credHelpers": {"quay.io": "ecr-login"}}, False),
        ({"auths": {"ghcr.io": {"auth": "bWU6c2VjcmV0"}}}, True),
        ({}, True),
    ],
)
def test_docker_config_without_an_entry_for_the_host_is_anonymous(
    tmp_path: Path, content: dict[str, object], anonymous: bool
) -> None:
    """A login for another host is none for this one."""
    (tmp_path / "config.json").write_text(json.dumps(content))
    keychain = Keychain(CredentialSettings(docker_config=tmp_path / "config.json"))
    source = keychain.source("quay.io", UpstreamSettings(url=URL), URL)
    assert source.is_anonymous == anonymous
    assert source.fix.startswith("log in to quay.io with docker login")
