"""The files of a bundle: one, or parts of it (`….001` and so on), and the list of what is in it (`….json`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirror.airgap.contents import LARGEST, Contents, Part
from mirror.errors import BundleInvalid

_FIRST = ".001"


def parts_of(bundle: Path) -> list[Path]:
    """The files to read a bundle from, by its name or that of its first part; as the list beside it has them.

    Raises:
        BundleInvalid: there is none, one is missing or has another size, or it is not known which are meant.
    """
    with readable(bundle):
        if bundle.is_dir():
            return [bundle]
        stem = bundle.with_name(bundle.name.removesuffix(_FIRST))
        listed = _listed(stem)
        return _checked(bundle, stem, listed) if listed else _found(bundle, stem)


def bundle_files(bundle: Path) -> list[Path]:
    """What belongs to a bundle of that name, or has the name of something that does: the file, parts, the list."""
    stem = bundle.with_name(bundle.name.removesuffix(_FIRST))
    return [stem, *numbered(stem.parent, stem.name).values(), _list_of(stem)]


def numbered(directory: Path, stem: str) -> dict[int, Path]:
    """The files <stem>.001 and so on, by number, in their order."""
    files = directory.iterdir() if directory.is_dir() else ()
    endings = {path: path.name[len(stem) + 1 :] for path in files if path.name.startswith(f"{stem}.")}
    numbers = {int(ending): path for path, ending in endings.items() if _is_number(ending)}
    return dict(sorted(numbers.items()))


def first_of(part: Path) -> Path | None:
    """The first part of a bundle that this may be a later part of."""
    return part.with_suffix(_FIRST) if _is_number(part.suffix[1:]) and part.suffix != _FIRST else None


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Translates the operating system's errors.

    Raises:
        BundleInvalid
    """
    try:
        yield
    except OSError as error:
        raise BundleInvalid(f"{error.filename or path} can't be read: {error.strerror or error}") from error


def _is_number(ending: str) -> bool:
    """Of a part, as they are written: 001, 002, …, 1000."""
    return ending.isascii() and ending.isdecimal() and int(ending) > 0 and ending == f"{int(ending):03d}"


def _list_of(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.json")


def _listed(stem: Path) -> tuple[Part, ...]:
    """The parts that the list beside a bundle names; none where it is no such list."""
    path = _list_of(stem)
    if not path.is_file() or path.stat().st_size > LARGEST:
        return ()
    try:
        return Contents.parse(path.read_bytes(), where=str(path)).parts
    except BundleInvalid:
        return ()


def _checked(bundle: Path, stem: Path, listed: tuple[Part, ...]) -> list[Path]:
    """The files that are listed. Their names may be others by now, which way it is cut is not."""
    whole = len(listed) == 1 and not listed[0].name.endswith(_FIRST)
    files = [stem] if whole else [stem.with_name(f"{stem.name}.{number:03d}") for number in range(1, len(listed) + 1)]
    other = f"if {_list_of(stem).name} is another bundle's, remove it"
    if bundle != stem and bundle != files[0]:
        raise BundleInvalid(f"{bundle} is no part of the bundle that {_list_of(stem).name} lists, {stem.name}; {other}")
    for file, part in zip(files, listed, strict=True):
        if not file.exists():
            raise BundleInvalid(
                f"the bundle {stem.name} lacks {file.name}, of {len(files)} files: bring it into {stem.parent}; {other}"
            )
        size = file.stat().st_size
        if size != part.size:
            raise BundleInvalid(
                f"{file} has {size} bytes, and {part.size} by {_list_of(stem).name}: copy it again; {other}"
            )
    return files


def _found(bundle: Path, stem: Path) -> list[Path]:
    found = numbered(stem.parent, stem.name)
    if stem.exists() and 1 in found:
        raise BundleInvalid(
            f"{stem} and {found[1].name} are both here, of two bundles, and no {_list_of(stem).name} says which one is "
            f"meant: move the other away"
        )
    if stem.exists() or (bundle.exists() and 1 not in found):
        return [bundle]
    if not found:
        raise BundleInvalid(f"there is no bundle {bundle}, and no {stem.name}{_FIRST}")
    missing = next(number for number in range(1, len(found) + 2) if number not in found)
    if missing <= len(found):
        raise BundleInvalid(f"the bundle {stem.name} lacks its part {missing:03d}: bring all parts into {stem.parent}")
    return list(found.values())
