"""Image lists: read image names from a text file, one per line, or from a Compose file or Kubernetes manifests.

In YAML (`.yaml`, `.yml`), every value of a key `image` is an image name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from mirror.errors import ListInvalid

_MAX_DEPTH = 64


def images_in(file: Path) -> list[str]:
    """Return the image names in *file*, without duplicates, in their order.

    Raises:
        ListInvalid: if the file can't be read or contains no image name.
    """
    try:
        text = file.read_text()
    except OSError as error:
        raise ListInvalid(f"the list {file} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ListInvalid(f"the list {file} is not UTF-8 text: {error}; convert it") from error
    found = dict.fromkeys(_in_yaml(text, file) if file.suffix in {".yaml", ".yml"} else _in_lines(text))
    if not found:
        raise ListInvalid(f"{file} names no image: write one name per line, or image: NAME in YAML")
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
        raise ListInvalid(f"{file} is not YAML: {' '.join(str(error).split())[:200]}") from error


def _images(node: object, depth: int = 0) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        return
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "image" and isinstance(value, str) and value.strip():
                yield value.strip()
            else:
                yield from _images(value, depth + 1)
    elif isinstance(node, list):
        for value in node:
            yield from _images(value, depth + 1)
