"""Lists of images: lines of names, or the files in which people have them already.

A Compose file and Kubernetes manifests are YAML (`.yaml`, `.yml`): every `image:` in them is meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from mirror.errors import ListInvalid

_MOST_NESTED = 64


def images_in(file: Path) -> list[str]:
    """The names of images in *file*, each once, in its order.

    Raises:
        ListInvalid: it can't be read, or names none.
    """
    try:
        text = file.read_text()
    except OSError as error:
        raise ListInvalid(f"the list {file} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ListInvalid(f"the list {file} is no text: {error}") from error
    found = dict.fromkeys(_in_yaml(text, file) if file.suffix in {".yaml", ".yml"} else _in_lines(text))
    if not found:
        raise ListInvalid(f"{file} names no image")
    return list(found)


def _in_lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        name = line.partition("#")[0].strip()
        if name:
            yield name


def _in_yaml(text: str, file: Path) -> Iterator[str]:
    try:
        for document in yaml.safe_load_all(text):
            yield from _images(document)
    except (yaml.YAMLError, RecursionError) as error:
        raise ListInvalid(f"{file} is no YAML: {' '.join(str(error).split())[:200]}") from error


def _images(node: object, deep: int = 0) -> Iterator[str]:
    if deep > _MOST_NESTED:
        return
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "image" and isinstance(value, str) and value.strip():
                yield value.strip()
            else:
                yield from _images(value, deep + 1)
    elif isinstance(node, list):
        for value in node:
            yield from _images(value, deep + 1)
