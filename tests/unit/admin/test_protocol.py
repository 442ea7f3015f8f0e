"""The admin socket: malformed requests, other versions, internal errors, and messages that survive their JSON."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.admin import protocol
from mirror.admin.client import AdminClient, AdminRefused
from mirror.admin.message import Message
from mirror.admin.protocol import VERSION, VERSION_HEADER, AdminVersionMismatch, ImageSelection, WarmRequest
from mirror.admin.unix_socket import administered
from mirror.assembly import assembled
from mirror.catalog.images import Images
from mirror.config import read_settings
from mirror.errors import NameInvalid, StorageFailed
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.oci.platforms import Platform
from tests.layers import ROOT
from tests.unit.configurations import environment

DIGEST = str(Digest.of(b"content"))
MANIFEST = {"digest": DIGEST, "media_type": None}
SELECTING = ("/graph", "/pin", "/unpin", "/remove")
MALFORMED: list[tuple[str, object, str]] = [
    *((path, b"no JSON", "body") for path in (*SELECTING, "/collect", "/hold", "/warm", "/image")),
    *((path, b'"\xff"', "body") for path in (*SELECTING, "/collect", "/hold", "/warm", "/image")),
    *((path, b"[" * 100_000, "body") for path in SELECTING),
    *((path, [], "body") for path in SELECTING),
    *((path, {"images": "app:v1"}, "images") for path in SELECTING),
    *((path, {"images": [1]}, "images.0") for path in SELECTING),
    *((path, {"which": "some"}, "which") for path in SELECTING),
    *((path, {"image": "app:v1"}, "image") for path in SELECTING),
    *((path, {"images": ["UPPER CASE"]}, "images.0") for path in SELECTING),
    *((path, {"images": ["app:v1", "app:v*=0"], "which": "all"}, "images.1") for path in SELECTING),
    *((path, {"images": ["*", "app:v1", "app@sha256:zz"]}, "images.2") for path in SELECTING),
    ("/collect", {"force": True}, "force"),
    ("/hold", {}, "digests"),
    ("/hold", {"digests": [DIGEST, "sha256:zz"]}, "digests.1"),
    ("/hold", {"digests": [1]}, "digests.0"),
    ("/warm", {}, "images"),
    ("/warm", {"images": []}, "images"),
    ("/warm", {"images": ["a"], "platforms": ["linux"]}, "platforms.0"),
    ("/warm", {"images": ["a"], "jobs": 0}, "jobs"),
    ("/warm", {"images": ["a"], "jobs": 33}, "jobs"),
    ("/warm", {"images": ["a"], "jobs": "2"}, "jobs"),
    ("/warm", {"images": ["a"], "jobs": True}, "jobs"),
    ("/warm", {"images": ["a"], "pin": "yes"}, "pin"),
    ("/image", {"name": "team/app:v1", "digest": DIGEST}, "manifests"),
    ("/image", {"name": "team/app:v1", "digest": DIGEST, "manifests": []}, "manifests"),
    ("/image", {"name": "team/app:v1", "digest": "v1", "manifests": [MANIFEST]}, "digest"),
    ("/image", {"name": "team/app:v1", "digest": DIGEST, "manifests": [{"digest": DIGEST}]}, "manifests.0.media_type"),
    ("/image", {"name": "UPPER CASE", "digest": DIGEST, "manifests": [MANIFEST]}, "name"),
    ("/image", {"name": "team/app:v*", "digest": DIGEST, "manifests": [MANIFEST]}, "name"),
]


@pytest.fixture
async def socket(tmp_path: Path) -> AsyncIterator[Path]:
    """The admin socket of a mirror with an empty cache."""
    with environment():
        read = read_settings(None, {"cache": {"path": tmp_path}}, [])
    async with assembled(read, Metrics(), serving=True) as parts:
        path = tmp_path / "control.sock"
        async with administered(parts.admin, path):
            yield path


@asynccontextmanager
async def raw(path: Path, version: str | None = VERSION) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client of a socket, which sends this version."""
    headers = {} if version is None else {VERSION_HEADER: version}
    connector = aiohttp.UnixConnector(str(path))
    async with aiohttp.ClientSession("http://mirror", connector=connector, headers=headers) as session:
        yield session


async def failure(response: aiohttp.ClientResponse) -> protocol.Failure:
    """The error that a response carries, which is of our version as all are."""
    assert response.headers[VERSION_HEADER] == VERSION
    return protocol.Failure.model_validate_json(await response.read())


async def test_a_malformed_request_is_a_400_that_names_the_field(socket: Path) -> None:
    """This holds for every endpoint with a body."""
    async with raw(socket) as session:
        for path, body, field in MALFORMED:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            async with session.post(path, data=content) as response:
                refused = await failure(response)
                assert response.status == 400, (path, body[:50] if isinstance(body, bytes) else body, refused)
            assert refused.kind == "AdminRequestInvalid"
            assert f"{path} is malformed: {field}: " in refused.error or f"malformed: {field}: " in refused.error


async def test_a_blob_with_a_malformed_digest_or_without_a_length_is_a_400(socket: Path) -> None:
    """The digest is in the path, the length in a header."""

    async def chunked() -> AsyncIterator[bytes]:
        yield b"content"

    async with raw(socket) as session:
        async with session.put("/blobs/sha256:zz", data=b"content") as response:
            assert response.status == 400
            assert "digest: 'sha256:zz' is not a digest" in (await failure(response)).error
        async with session.put(f"/blobs/{DIGEST}", data=chunked()) as response:
            assert response.status == 400
            assert "Content-Length: " in (await failure(response)).error


async def test_unknown_endpoint_is_a_json_error(socket: Path) -> None:
    """An unknown path, and another method."""
    async with raw(socket) as session:
        async with session.get("/closure") as response:
            assert (response.status, (await failure(response)).kind) == (404, "HTTP")
        async with session.delete("/images") as response:
            assert (response.status, (await failure(response)).kind) == (405, "HTTP")


async def test_an_internal_error_is_a_json_error(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It contains the name of the error's class; the log has the rest."""

    async def fail(_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(Images, "all", fail)
    async with AdminClient.at(socket) as client:
        with pytest.raises(AdminRefused, match="its log has the reason") as refused:
            await client.stats()
    assert refused.value.detail["kind"] == "RuntimeError"


@pytest.mark.parametrize(("version", "named"), [(None, "(none)"), ("2", "2"), ("", "(none)")])
async def test_a_request_of_another_version_is_refused(socket: Path, version: str | None, named: str) -> None:
    """The message has both versions, and what to do."""
    async with raw(socket, version) as session:
        for method, path in (("GET", "/"), ("GET", "/images"), ("POST", "/warm"), ("PUT", f"/blobs/{DIGEST}")):
            async with session.request(method, path, data=b"") as response:
                assert response.status == 400
                refused = await failure(response)
            assert refused.kind == "AdminVersionMismatch"
            assert f"speaks version {VERSION} of the admin protocol" in refused.error
            assert f"this command speaks version {named}: run the command of the same release" in refused.error


@pytest.mark.parametrize(("version", "named"), [(None, "(none)"), ("2", "2")])
async def test_a_response_of_another_version_is_refused(tmp_path: Path, version: str | None, named: str) -> None:
    """Its content does not matter. Such a mirror counts as one that serves: it has locked the cache."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"serving": False}, headers={} if version is None else {VERSION_HEADER: version})

    application = web.Application()
    application.add_routes([web.route("*", "/{path:.*}", answer)])
    runner = web.AppRunner(application)
    await runner.setup()
    path = tmp_path / "control.sock"
    try:
        await web.UnixSite(runner, str(path)).start()
        async with AdminClient.at(path) as client:
            message = rf"mirror speaks version {named.replace('(', '.').replace(')', '.')} .* command speaks version 1"
            with pytest.raises(AdminVersionMismatch, match=message):
                await client.stats()
            with pytest.raises(AdminVersionMismatch, match=message):
                async with client.warm(WarmRequest(images=("app",))):
                    pass
        assert await AdminClient.serves(path) is True
    finally:
        await runner.cleanup()


async def test_a_response_that_can_not_be_read_is_reported(tmp_path: Path) -> None:
    """The response has our version but lacks a field, and causes no traceback."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"images": 1}, headers={VERSION_HEADER: VERSION})

    application = web.Application()
    application.add_routes([web.get("/stats", answer)])
    runner = web.AppRunner(application)
    await runner.setup()
    path = tmp_path / "control.sock"
    try:
        await web.UnixSite(runner, str(path)).start()
        async with AdminClient.at(path) as client:
            with pytest.raises(StorageFailed, match=r"can't be read .*pinned: Field required"):
                await client.stats()
    finally:
        await runner.cleanup()


async def test_a_refusal_has_the_name_of_the_mirrors_error(socket: Path) -> None:
    """Callers decide by it what to tell the operator."""
    async with AdminClient.at(socket) as client:
        with pytest.raises(AdminRefused, match="no image in the cache matches 'app:v1'") as refused:
            await client.pin(ImageSelection(images=("app:v1",)))
    assert refused.value.detail["kind"] == "ImageUnknown"


digests = st.builds(Digest.of, st.binary(max_size=8), st.sampled_from(["sha256", "sha512"]))
platforms = st.builds(Platform.of, st.sampled_from(["linux", "windows"]), st.sampled_from(["amd64", "arm"]), st.none())
times = st.floats(0, 1e12)
summaries = st.builds(protocol.ImageSummary, checked=st.none() | times, used=times)
st.register_type_strategy(Digest, digests)
st.register_type_strategy(Platform, platforms)
st.register_type_strategy(protocol.ImageSummary, summaries)

MODELS = [
    model
    for model in vars(protocol).values()
    if isinstance(model, type) and issubclass(model, Message) and model is not Message
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@given(data=st.data())
@settings(max_examples=30)
def test_every_message_survives_its_json(model: type[Message], data: st.DataObject) -> None:
    """A message that one side sends is read unchanged by the other side."""
    message = data.draw(st.from_type(model))
    assert model.model_validate_json(message.to_json()) == message


TEXTS = st.text(st.sampled_from('\ud800\udbff\udc00\udcff\udfff\\"[*a\0é\U0001f600'), max_size=6)
NUMBERS: dict[object, st.SearchStrategy[Any]] = {int: st.integers(1, 9), float: times}  # every field allows them


def with_any_text(kind: object) -> st.SearchStrategy[Any]:
    """Values of a type of fields, with TEXTS for every text in them."""
    arguments = get_args(kind)
    if get_origin(kind) is Annotated:
        return with_any_text(arguments[0])
    if kind is str:
        return TEXTS
    if get_origin(kind) is tuple:
        return st.lists(with_any_text(arguments[0]), min_size=1, max_size=3).map(tuple)
    if get_origin(kind) in {Union, UnionType}:
        return st.one_of(*map(with_any_text, arguments))
    if isinstance(kind, type) and issubclass(kind, Message):
        return st.builds(kind, **fields_with_any_text(kind))
    return NUMBERS[kind] if kind in NUMBERS else st.from_type(cast("type[object]", kind))


def fields_with_any_text(model: type[Message]) -> dict[str, st.SearchStrategy[Any]]:
    """Values of all fields of a message."""
    kinds = {name: field.annotation for name, field in model.model_fields.items()}
    return {name: with_any_text(kind) for name, kind in kinds.items()}


def escaped(value: object) -> object:
    """The value with every surrogate replaced by its escape."""
    if isinstance(value, str):
        return "".join(f"\\u{ord(one):x}" if "\ud800" <= one <= "\udfff" else one for one in value)
    if isinstance(value, dict):
        return {key: escaped(one) for key, one in value.items()}
    return tuple(map(escaped, value)) if isinstance(value, tuple) else value


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@given(data=st.data())
@settings(max_examples=50)
def test_any_text_can_be_sent(model: type[Message], data: st.DataObject) -> None:
    """No text of a request or response causes an error that is not a MirrorError; the reader gets surrogates escaped.

    Only the names of an ImageSelection are refused instead.
    """
    fields = data.draw(st.fixed_dictionaries(fields_with_any_text(model)))
    try:
        message = model(**fields)
    except NameInvalid:
        assert model is ImageSelection
        assert escaped(fields) != fields
        return
    assert model.model_validate_json(message.to_json().encode()).model_dump() == escaped(message.model_dump())


def test_messages_are_sent_by_to_json_only() -> None:
    """`model_dump_json` fails for text that is not Unicode."""
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.rglob("*.py")}
    assert {path for path, source in sources.items() if "model_dump_json" in source} == {"admin/message.py"}


def test_there_are_messages() -> None:
    """The test above would not notice if it found none."""
    assert len(MODELS) > 20
