"""`make reference`: docs/configuration.md and config/mirror.toml, from the settings and their docstrings."""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mirror.config import DEFAULT_UPSTREAMS, AccessRule, Section, Settings, parse_duration, parse_size

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "configuration.md"
FILE = ROOT / "config" / "mirror.toml"
_WIDTH = 118

FLAGS = {
    "server.listen": ("--listen", "MIRROR_LISTEN"),
    "server.offline": ("--offline", "MIRROR_OFFLINE"),
    "cache.path": ("--cache", "MIRROR_CACHE"),
    "cache.max_size": ("--max-size", "MIRROR_MAX_SIZE"),
    "log.format": ("--log-format", "MIRROR_LOG_FORMAT"),
}
"""The flag and the short variable of a key, by key."""

EXAMPLES: Mapping[str, object] = {
    "server.certificate_file": "/etc/mirror/tls.crt",
    "server.key_file": "/etc/mirror/tls.key",
    "clients.users_file": "/etc/mirror/users",
    "clients.certificates_file": "/etc/mirror/clients.crt",
    "cache.path": "/var/cache/mirror",
    "credentials.docker_config": "/root/.docker/config.json",
    "upstreams.url": "https://registry.example",
    "upstreams.urls": ("https://nearby.example", "https://registry.example"),
    "upstreams.username": "…",
    "upstreams.password_file": "/run/secrets/…",
    "upstreams.credential_helper": "ecr-login",
    "upstreams.ca_file": "/etc/mirror/ca.crt",
    "upstreams.certificate_file": "/etc/mirror/own.crt",
    "upstreams.key_file": "/etc/mirror/own.key",
    "access.users": ("ci-*",),
    "access.repositories": ("docker.io/library/*", "ghcr.io/team/*"),
    "access.allow": True,
}
"""Example values of keys without a default."""

_KINDS = {
    parse_size: "size",
    parse_duration: "duration",
    str: "text",
    Path: "path",
    bool: "true or false",
    int: "number",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section."""

    section: str
    name: str
    kind: str
    default: object  # None: not set
    text: str

    @property
    def path(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that sets the key."""
        return FLAGS.get(self.path, ("", f"MIRROR_{self.section}__{self.name}".upper()))[1]


def keys(section: str) -> list[Key]:
    """Return the keys of a section, in the order of their declaration."""
    model = section_model(section)
    texts = dict(_texts(model))
    return [
        Key(section, name, _kind(field), _default(section, name, field), texts[name])
        for name, field in model.model_fields.items()
    ]


def section_model(name: str) -> type[Section]:
    """Return the class of a section, or of the items of a section that is a list or a table."""
    annotation = Settings.model_fields[name].annotation
    found = [one for one in (annotation, *get_args(annotation)) if isinstance(one, type)]
    return next(one for one in found if not get_args(one) and issubclass(one, Section))


def _texts(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Yield the docstring below each key, on one line."""
    declared = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(declared, ast.ClassDef)
    for statement, below in zip(declared.body, declared.body[1:], strict=False):
        match statement, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, " ".join(text.split())


def _kind(field: FieldInfo) -> str:
    for constraint in field.metadata:
        if (kind := _KINDS.get(getattr(constraint, "func", None))) is not None:
            return kind
    chosen = get_args(field.annotation)
    if field.annotation in _KINDS:
        return _KINDS[field.annotation]
    if chosen and chosen[0] in _KINDS:  # Path | None, tuple[str, ...]
        return "list of texts" if chosen[1:] == (...,) else _KINDS[chosen[0]]
    return "choice"


def _default(section: str, name: str, field: FieldInfo) -> object:
    if f"{section}.{name}" == "cache.path" or field.is_required():
        return None
    value = field.get_default()
    kind = _kind(field)
    if kind == "size":
        return _shown(value, (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)), least=1)
    if kind == "duration":
        return _shown(value, (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)), least=60)
    return value or None if kind in {"path", "text", "list of texts"} else value


def _shown(value: float, units: tuple[tuple[str, int], ...], *, least: int) -> object:
    """Return *value* in the largest unit of which it is a multiple; exactly one unit of size *least* stays a number."""
    for name, unit in units:
        if value >= unit and not value % unit and not (value == unit == least):
            return f"{value / unit:g}{name}"
    return value


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def page() -> str:
    """Return docs/configuration.md."""
    return "\n".join([*_head(), *(line for name in Settings.model_fields for line in _chapter(name))])


def _head() -> Iterator[str]:
    yield from ("# Configuration", "")
    yield from (*_PAGE_HEAD.strip().splitlines(), "")


_PAGE_HEAD = """
`make reference` generates this page from the settings. Every key is optional. A flag overrides a variable, a variable
overrides the file, and the file overrides the default. The file is TOML, given as `--config FILE` or `MIRROR_CONFIG`;
[config/mirror.toml](../config/mirror.toml) contains every key with its default. An unknown key, an invalid value, or a
variable with almost the name of a key stops the start; `mirror doctor --config FILE` reports it without starting.

Sizes are bytes, or a number with a unit (500MB, 50GiB). Durations are 500ms, 60s, 15m, 12h, 30d. Access rules and
upstreams can only be set in the file; every other key also has a variable. The mirror reads its settings once, at the
start. Exceptions: SIGHUP reads certificates and users again, and changed passwords of upstreams take effect within a
second.
"""


_UPSTREAM_FLAG = (
    "`--upstream NAME=URL` adds an upstream, or changes the URL of one. `MIRROR_UPSTREAM` may hold several, separated "
    "by spaces."
)


def _chapter(section: str) -> Iterator[str]:
    model = section_model(section)
    title = {"access": "[[access]]", "upstreams": '[upstreams."NAME"]'}.get(section, f"[{section}]")
    yield from (f"## {title}", "", *textwrap.wrap(" ".join((model.__doc__ or "").split()), _WIDTH), "")
    if section == "upstreams":
        yield from textwrap.wrap(_UPSTREAMS, _WIDTH)
        yield from ("", *textwrap.wrap(_UPSTREAM_FLAG, _WIDTH), "")
        yield from ("| embedded | url |", "|---|---|")
        yield from (f"| {name} | `{url}` |" for name, url in DEFAULT_UPSTREAMS.items())
        yield ""
    listed = section in {"access", "upstreams"}
    yield "| key | kind | default | |" if listed else "| key | kind | default | flag, variable | |"
    yield "|---|---|---|---|" if listed else "|---|---|---|---|---|"
    for key in keys(section):
        default = "" if key.default is None else f"`{_toml(key.default)}`"
        flag = FLAGS.get(key.path, ("",))[0]
        where = "" if listed else f"{f'`{flag}`, ' if flag else ''}`{key.variable}` | "
        yield f"| `{key.name}` | {key.kind} | {default} | {where}{key.text} |"
    yield ""


_UPSTREAMS = (
    "A request names its upstream in the path, /v2/quay.io/org/app/…, or as ?ns=quay.io. A request without a name goes "
    "to the default upstream, docker.io. A section adds an upstream, or changes keys of the embedded one of that name."
)


def file() -> str:
    """Return config/mirror.toml."""
    parts = ["\n".join(_FILE_HEAD)]
    for section in Settings.model_fields:
        if section == "access":
            parts.append("\n".join(_access()))
        elif section == "upstreams":
            parts.append("\n".join(_upstreams()))
            parts += [
                f'[upstreams."{name}"]\nurl = "{url}"\ndefault = {_toml(name == "docker.io")}'
                for name, url in DEFAULT_UPSTREAMS.items()
            ]
        else:
            parts.append("\n".join([f"[{section}]", *(line for key in keys(section) for line in lines(key))]))
    return "\n\n".join(parts) + "\n"


_FILE_HEAD = (
    "# Every key with its default. The mirror runs without this file; keep only the keys that you change.",
    "# Every key also has a variable: MIRROR_TAGS__FRESH_FOR=5m sets fresh_for of [tags].",
    "# Sizes: bytes, or a number with a unit (500MB, 50GiB). Durations: 500ms, 60s, 15m, 12h, 30d.",
)


def lines(key: Key) -> Iterator[str]:
    """Yield the lines of a key in config/mirror.toml."""
    yield from _comment(key.text)
    if key.default is None:
        yield f"# {key.name} = {_toml(EXAMPLES[key.path])}"
    else:
        yield f"{key.name} = {_toml(key.default)}"


def _access() -> Iterator[str]:
    yield from _comment(AccessRule.__doc__ or "")
    for key in keys("access"):
        yield from _comment(f"{key.name}: {key.text}")
    yield "#     [[access]]"
    yield from (f"#     {key.name} = {_toml(EXAMPLES[key.path])}" for key in keys("access"))


def _upstreams() -> Iterator[str]:
    yield from _comment(_UPSTREAMS)
    yield from _comment("Further keys of an upstream:")
    for key in keys("upstreams"):
        if key.name not in {"url", "default"}:
            yield from _comment(key.text, indent="    ")
            yield f"#     {key.name} = {_toml(EXAMPLES.get(key.path, key.default))}"


def _comment(text: str, *, indent: str = "") -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        _WIDTH,
        initial_indent=f"# {indent}",
        subsequent_indent=f"# {indent}",
        break_on_hyphens=False,
    )


def main() -> None:
    """Write both files."""
    PAGE.write_text(page())
    FILE.write_text(file())


if __name__ == "__main__":
    main()
