"""Files of a bundle on disk: one file or numbered parts (`….001` and so on), and the list of contents (`….json`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirror.airgap.contents import LARGEST, Contents, Part
from mirror.errors import BundleInvalid

_FIRST = ".001"


def parts_of(bundle: Path) -> list[Path]:
    """Return the files of *bundle*, given its name or that of its first part, as its list of contents names them.

    Raises:
        BundleInvalid: if a file is missing or has the wrong size, or if the name is ambiguous.
    """
    with readable(bundle):
        if bundle.is_dir():
            return [bundle]
        stem = bundle.with_name(bundle.name.removesuffix(_FIRST))
        listed = _listed(stem)
        return _checked(bundle, stem, listed) if listed else _found(bundle, stem)


def bundle_files(bundle: Path) -> list[Path]:
    """Return the paths that a bundle of this name uses: the file, its parts, and the list of contents."""
    stem = bundle.with_name(bundle.name.removesuffix(_FIRST))
    return [stem, *numbered(stem.parent, stem.name).values(), _list_of(stem)]


def numbered(directory: Path, stem: str) -> dict[int, Path]:
    """Return the files <stem>.001 and so on, by number, in ascending order."""
    files = directory.iterdir() if directory.is_dir() else ()
    endings = {path: path.name[len(stem) + 1 :] for path in files if path.name.startswith(f"{stem}.")}
    numbers = {int(ending): path for path, ending in endings.items() if _is_number(ending)}
    return dict(sorted(numbers.items()))


def first_of(part: Path) -> Path | None:
    """Return the path of the first part if *part* is named like a later part of a bundle, else None."""
    return part.with_suffix(_FIRST) if _is_number(part.suffix[1:]) and part.suffix != _FIRST else None


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Translate OSError.

    Raises:
        BundleInvalid: if a file or directory can't be read.
    """
    try:
        yield
    except OSError as error:
        raise BundleInvalid(f"{error.filename or path} can't be read: {error.strerror or error}") from error


def _is_number(ending: str) -> bool:
    """Return whether *ending* is a part number as written by PartsWriter: 001, 002, …, 1000."""
    return ending.isascii() and ending.isdecimal() and int(ending) > 0 and ending == f"{int(ending):03d}"


def _list_of(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.json")


def _listed(stem: Path) -> tuple[Part, ...]:
    """Return the parts in a bundle's list of contents, or none if there is no valid list."""
    path = _list_of(stem)
    if not path.is_file() or path.stat().st_size > LARGEST:
        return ()
    try:
        return Contents.parse(path.read_bytes(), where=str(path)).parts
    except BundleInvalid:
        return ()


def _checked(bundle: Path, stem: Path, listed: tuple[Part, ...]) -> list[Path]:
    """Return the listed files after checking that each exists and has the listed size.

    Only their number and sizes come from the list: the bundle may have been renamed since.
    """
    is_single = len(listed) == 1 and not listed[0].name.endswith(_FIRST)
    files = (
        [stem] if is_single else [stem.with_name(f"{stem.name}.{number:03d}") for number in range(1, len(listed) + 1)]
    )
    hint = f"if {_list_of(stem).name} describes another bundle, remove it"
    if bundle != stem and bundle != files[0]:
        raise BundleInvalid(
            f"{_list_of(stem)} describes the bundle {stem.name}, and {bundle.name} is none of its files: name "
            f"{files[0]}, or remove {_list_of(stem).name} if it describes another bundle"
        )
    for file, part in zip(files, listed, strict=True):
        if not file.exists():
            raise BundleInvalid(
                f"the bundle {stem.name} lacks {file.name}, one of {len(files)} files: copy it to {stem.parent}; {hint}"
            )
        size = file.stat().st_size
        if size != part.size:
            raise BundleInvalid(
                f"{file} has {size} bytes, but {part.size} in {_list_of(stem).name}: copy it again; {hint}"
            )
    return files


def _found(bundle: Path, stem: Path) -> list[Path]:
    found = numbered(stem.parent, stem.name)
    if stem.exists() and 1 in found:
        raise BundleInvalid(
            f"{stem} and {found[1].name} are two bundles of the same name, and {_list_of(stem).name} is missing: move "
            f"the one that you do not want to import to another directory"
        )
    if stem.exists() or (bundle.exists() and 1 not in found):
        return [bundle]
    if not found:
        raise BundleInvalid(f"there is no bundle {bundle}, and no {stem.name}{_FIRST}: check the path")
    missing = next(number for number in range(1, len(found) + 2) if number not in found)
    if missing <= len(found):
        raise BundleInvalid(f"the bundle {stem.name} lacks its part {missing:03d}: copy all parts to {stem.parent}")
    return list(found.values())
