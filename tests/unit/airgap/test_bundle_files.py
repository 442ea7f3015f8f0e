"""Files of a bundle: writing replaces the files of an earlier bundle, and reading finds exactly the right ones."""

import os
import tarfile
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mirror.airgap.archive import opened
from mirror.airgap.bundle_files import parts_of
from mirror.airgap.bundle_reader import read_bundle
from mirror.airgap.exporting import require_apart
from mirror.errors import BundleInvalid, DiskFull, StorageFailed
from tests.real.mounts import small_disk
from tests.unit.bundles import all_of, an_image, write


def test_bundle_replaces_an_earlier_one_completely(tmp_path: Path) -> None:
    """A leftover part of the earlier one would be read as a part of the new one."""
    contents, blobs = an_image(bytes(9000))
    for limit in (3000, None, 6000, 9000):
        written = write(tmp_path / "b", contents, blobs, limit)
        with opened(tmp_path / "b") as archive:
            assert all_of(read_bundle(archive)) == blobs
        assert {path.name for path in tmp_path.iterdir()} == {part.name for part in written.parts} | {"b.json"}


def test_bundle_replaces_only_regular_files(tmp_path: Path) -> None:
    """A pipe or a directory at the target is an error, and nothing is written."""
    contents, blobs = an_image(b"one")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("pipe", "directory", "absent/b"):
        with pytest.raises(StorageFailed, match=r"is not a file|there is no directory"):
            write(tmp_path / name, contents, blobs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "pipe"]


@pytest.mark.needs("mount", root=True)
@pytest.mark.parametrize("left", [20, 0])
@pytest.mark.parametrize("limit", [None, 2**15])
def test_full_disk_is_reported_and_leaves_no_files(tmp_path: Path, limit: int | None, left: int) -> None:
    """Neither the bundle nor its list of contents is left, even if only the list did not fit."""
    contents, blobs = an_image(os.urandom(300_000))
    parts = write(tmp_path / "b.tar", contents, blobs, limit).parts
    pages = sum(-(-part.size // 4096) for part in parts)
    with small_disk(tmp_path / "disk", (pages - left) * 4096) as disk:
        with pytest.raises(DiskFull, match=r"b\.tar"):
            write(disk / "b.tar", contents, blobs, limit)
        assert list(disk.iterdir()) == []


def test_bundle_never_replaces_the_one_it_builds_on(tmp_path: Path) -> None:
    """Each of its files is protected, by each name and link."""
    contents, blobs = an_image(bytes(9000))
    write(tmp_path / "whole", contents, blobs)
    write(tmp_path / "split", contents, blobs, 3000)
    (tmp_path / "link").symlink_to("whole")
    (tmp_path / "hard").hardlink_to(tmp_path / "whole")
    (tmp_path / "there").symlink_to(".")
    for target, earlier in (
        *(("whole", "whole"), ("whole", "whole.json"), ("link", "whole"), ("whole", "link"), ("hard", "whole")),
        *(("split", "split"), ("split", "split.001"), ("split", "split.json"), ("split.002", "split.json")),
        *(("there/whole", "whole.json"), ("whole", "there/whole")),
    ):
        with pytest.raises(StorageFailed, match="--since"):
            require_apart(tmp_path / target, tmp_path / earlier)
    require_apart(tmp_path / "other", tmp_path / "whole.json")
    require_apart(tmp_path / "whole", tmp_path / "split.json")


def test_missing_part_is_named(tmp_path: Path) -> None:
    """The operator must know which file to copy."""
    contents, blobs = an_image(b"x" * 30_000)
    write(tmp_path / "b.tar", contents, blobs, 8192)
    assert parts_of(tmp_path / "b.tar.001") == parts_of(tmp_path / "b.tar")
    last = parts_of(tmp_path / "b.tar")[-1]
    whole = last.read_bytes()
    for change, said in (
        (lambda: last.write_bytes(whole[:-10240]), rf"{last.name} has .*: copy it again"),
        (last.unlink, f"lacks {last.name}, one of 5 files"),
        ((tmp_path / "b.tar.002").unlink, "lacks b.tar.002"),
        ((tmp_path / "b.tar.json").unlink, "lacks its part 002"),
    ):
        change()
        with pytest.raises(BundleInvalid, match=said), opened(tmp_path / "b.tar"):
            pass
    with pytest.raises(BundleInvalid, match="no bundle"), opened(tmp_path / "other.tar"):
        pass


def test_ambiguous_bundle_is_an_error_without_a_list_of_contents(tmp_path: Path) -> None:
    """A single file and parts of the same name, from two exports: only the list of contents tells which to read."""
    old, old_blobs = an_image(bytes(9000))
    new, new_blobs = an_image(bytes(20_000))
    for name, limit in (("whole", None), ("split", 8192)):
        here = tmp_path / name
        here.mkdir()
        write(here / "b.tar", new, new_blobs, limit)
        kept = {path.name: path.read_bytes() for path in here.iterdir()}
        write(here / "b.tar", old, old_blobs, 4096 if limit is None else None)
        for file, body in kept.items():
            (here / file).write_bytes(body)
        with opened(here / "b.tar") as archive:
            assert read_bundle(archive).images == new.images
        with (
            pytest.raises(BundleInvalid, match=r"b\.tar\.001 is none of its files: name .*b\.tar, or")
            if limit is None
            else nullcontext()
        ):
            parts_of(here / "b.tar.001")
        (here / "b.tar.json").unlink()
        for meant in ("b.tar", "b.tar.001"):
            with pytest.raises(BundleInvalid, match="are two bundles of the same name"):
                parts_of(here / meant)


def test_files_with_numbers_out_of_sequence_are_kept(tmp_path: Path) -> None:
    """A number may be a year or a date: such a file belongs to no bundle."""
    contents, blobs = an_image(bytes(9000))
    for number in ("2025", "20251101", "1", "0004"):
        (tmp_path / f"b.tar.{number}").write_bytes(b"kept")
    for limit in (3000, None):
        write(tmp_path / "b.tar", contents, blobs, limit)
        with opened(tmp_path / "b.tar") as archive:
            assert all_of(read_bundle(archive)) == blobs
    kept = {path.name for path in tmp_path.iterdir()} - {"b.tar", "b.tar.json"}
    assert kept == {"b.tar.2025", "b.tar.20251101", "b.tar.1", "b.tar.0004"}


@pytest.mark.needs(root=True)
def test_unreadable_layout_is_reported_as_unreadable(tmp_path: Path) -> None:
    """The message does not say missing, for the directory, a file in it, and a directory deep in it."""
    contents, blobs = an_image(b"x")
    write(tmp_path / "b.tar", contents, blobs)
    with TemporaryDirectory() as directory:
        layout = Path(directory) / "layout"
        with tarfile.open(tmp_path / "b.tar") as tar:
            tar.extractall(layout, filter="data")
        Path(directory).chmod(0o755)
        for closed in (layout / "blobs" / "sha256", layout / "contents.json", layout, layout.parent):
            closed.chmod(0)
            os.seteuid(65534)
            try:
                with pytest.raises(BundleInvalid, match=r"can't be read: Permission denied"), opened(layout) as archive:
                    read_bundle(archive)
            finally:
                os.seteuid(0)
            closed.chmod(0o755)


@pytest.mark.needs(root=True)
def test_unreadable_target_directory_is_an_error() -> None:
    """It might contain the bundle that the new one builds on."""
    with TemporaryDirectory() as directory:
        os.seteuid(65534)
        try:
            with pytest.raises(StorageFailed, match=r"can't be written: Permission denied"):
                require_apart(Path(directory) / "b.tar", Path("week1.tar.json"))
        finally:
            os.seteuid(0)
