"""Bundles: written bundles are read back, output is reproducible, and damaged or harmful archives are rejected."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.airgap.archive import opened
from mirror.airgap.bundle_files import parts_of
from mirror.airgap.bundle_parts import PartsReader
from mirror.airgap.bundle_reader import read_bundle
from mirror.airgap.contents import CarriedBlob, CarriedImage, Contents
from mirror.airgap.docker_archive import docker_manifest
from mirror.airgap.unpack import UnpackDirectory
from mirror.errors import BundleInvalid, StorageFailed
from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_MANIFEST
from tests.real.mounts import small_disk
from tests.unit.bundles import NAME, all_of, an_image, write
from tests.unit.texts import digests

MIB = 2**20
layers = st.lists(st.binary(max_size=5000), max_size=4)


@settings(max_examples=50, deadline=None)
@given(layers, st.none() | st.integers(600, 20_000))
def test_written_bundle_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, own: list[bytes], limit: int | None
) -> None:
    """It is a single file or parts of any size, with the digests in the list of contents."""
    target = tmp_path_factory.mktemp("bundle") / "week.tar"
    contents, blobs = an_image(*own)
    written = write(target, contents, blobs, limit)
    with opened(target) as archive:
        bundle = read_bundle(archive)
        assert bundle.images == contents.images
        assert all_of(bundle) == blobs
        manifest = bundle.manifest(contents.images[0].digest, None)
        assert manifest is not None
        assert {one.digest for one in manifest.references} == set(blobs) - {manifest.digest}
    assert Contents.parse(Path(f"{target}.json").read_bytes(), where="beside") == written
    for part in written.parts:
        body = (target.parent / part.name).read_bytes()
        assert (len(body), hashlib.sha256(body).hexdigest()) == (part.size, part.digest.hex)
        assert limit is None or part.size <= limit


def test_bundle_is_reproducible(tmp_path: Path) -> None:
    """The same contents are the same bytes, at any time and place."""
    contents, blobs = an_image(b"one", b"two")
    for name in ("a", "b"):
        write(tmp_path / name, contents, blobs)
        os.utime(tmp_path / name, (1, 1))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def described(body: bytes, kind: str = "application/vnd.oci.image.config.v1+json") -> dict[str, object]:
    return {"digest": str(Digest.of(body)), "size": len(body), "mediaType": kind}


@pytest.mark.parametrize(
    ("manifest", "layers"),
    [
        ({"config": described(b"c"), "layers": [described(b"l")] * 2}, 2),
        ({"config": described(b"c"), "layers": []}, 0),
        ({"config": described(b"c", "application/vnd.cncf.helm.config.v1+json"), "layers": [described(b"l")]}, None),
        ({"config": described(b"c"), "layers": [described(b"l") | {"urls": ["https://a.test"]}]}, None),
        ({"config": described(b"c"), "layers": [described(b"left out")]}, None),
        ({"config": described(b"c"), "layers": [{"digest": "sha256:no"}]}, None),
        ({"config": described(b"c"), "layers": [1]}, None),
        ({"config": described(b"c")}, None),
        ([], None),
    ],
)
def test_manifest_json_lists_images_that_docker_can_load(manifest: object, layers: int | None) -> None:
    """Images with config and all layers in the bundle, each layer as often as it is used; other content is skipped."""
    body = json.dumps(manifest).encode()
    carried = CarriedImage(NAME, Digest.of(body), OCI_MANIFEST, len(body))
    blobs = [CarriedBlob(Digest.of(one), len(one)) for one in (b"c", b"l", body)]
    found = docker_manifest(Contents((carried,), tuple(blobs)), lambda digest: {Digest.of(body): body}[digest])
    if layers is None:
        assert found is None
    else:
        assert found is not None
        (entry,) = json.loads(found)
        assert (entry["RepoTags"], len(entry["Layers"])) == ([NAME], layers)
        assert entry["Config"] == f"blobs/sha256/{Digest.of(b'c').hex}"


@given(st.lists(st.tuples(digests, st.integers(0, 10**12), st.booleans()), max_size=5), st.text(max_size=20))
def test_contents_survive_a_round_trip(blobs: list[tuple[Digest, int, bool]], name: str) -> None:
    """Through JSON, with any name."""
    image = CarriedImage(name, Digest.of(b""), OCI_MANIFEST, 0)
    contents = Contents((image,), tuple(CarriedBlob(*blob) for blob in blobs))
    assert Contents.parse(contents.text(), where="here") == contents


@given(
    st.binary(max_size=100)
    | st.recursive(
        st.none() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["schemaVersion", "images", "blobs"]), x),
    ).map(lambda x: json.dumps(x).encode())
)
def test_invalid_list_of_contents_is_rejected(text: bytes) -> None:
    """The message names the file."""
    with pytest.raises(BundleInvalid, match="here"):
        Contents.parse(text, where="here")


def test_known_blobs_are_omitted(tmp_path: Path) -> None:
    """The list of contents names them as required."""
    contents, blobs = an_image(b"base" * 1000, b"new")
    base = Digest.of(b"base" * 1000)
    write(tmp_path / "b.tar", contents.without([base]), blobs)
    with opened(tmp_path / "b.tar") as archive:
        assert set(read_bundle(archive).blobs) == set(blobs) - {base}
    inside = Contents.parse(Path(tmp_path / "b.tar.json").read_bytes(), where="beside")
    assert [blob.digest for blob in inside.blobs if not blob.included] == [base]


@pytest.mark.parametrize("limit", [None, 4096])
def test_truncated_bundle_is_rejected(tmp_path: Path, limit: int | None) -> None:
    """It may end at any position: in a header, in a blob, between two files."""
    contents, blobs = an_image(b"x" * 3000, b"y" * 3000)
    write(tmp_path / "b.tar", contents, blobs, limit)
    (tmp_path / "b.tar.json").unlink()
    last = parts_of(tmp_path / "b.tar")[-1]
    whole = last.read_bytes()
    size = sum(path.stat().st_size for path in parts_of(tmp_path / "b.tar"))
    with tarfile.open(fileobj=io.BufferedReader(PartsReader(parts_of(tmp_path / "b.tar")))) as tar:
        end = max(entry.offset_data + -(-entry.size // 512) * 512 for entry in tar)
    for cut in range(1, min(len(whole), 12_000), 257):
        last.write_bytes(whole[:-cut])
        if size - cut >= end + 1024:
            continue  # only padding is missing
        with pytest.raises(BundleInvalid), opened(tmp_path / "b.tar") as archive:
            read_bundle(archive)


def _entry(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, link
    return entry


@pytest.mark.parametrize(
    "entry",
    [
        _entry("../outside", tarfile.REGTYPE),
        _entry("/etc/passwd", tarfile.REGTYPE),
        _entry("blobs/../../x", tarfile.REGTYPE),
        _entry("blobs/sha256/dev", tarfile.CHRTYPE),
        _entry("blobs/sha256/dev", tarfile.BLKTYPE),
        _entry("pipe", tarfile.FIFOTYPE),
        _entry("link", tarfile.SYMTYPE, "/etc/passwd"),
        _entry("a/link", tarfile.SYMTYPE, "../../x"),
        _entry("hard", tarfile.LNKTYPE, "../x"),
    ],
    ids=lambda entry: f"{entry.name} {entry.type!r}",
)
def test_harmful_entry_is_rejected(tmp_path: Path, entry: tarfile.TarInfo) -> None:
    """The rejection precedes any use of the archive's content."""
    contents, blobs = an_image(b"x")
    write(tmp_path / "b.tar", contents, blobs)
    with tarfile.open(tmp_path / "b.tar", "a") as tar:
        tar.addfile(entry)
    with pytest.raises(BundleInvalid), opened(tmp_path / "b.tar"):
        pass


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("b.tar", b"", "is empty: copy it again"),
        ("b.tar", b"no archive", "is not an archive of images: name a tar"),
        ("b.tar", bytes(2000), "is neither"),
        ("b.tar", os.urandom(3000), "is not an archive of images: name a tar"),
        ("b.tar.002", os.urandom(3000), r"is not an archive; if it is a part of a bundle, name b\.tar\.001"),
    ],
)
def test_file_that_is_not_an_archive_is_rejected(tmp_path: Path, name: str, body: bytes, said: str) -> None:
    """The message has one line. An empty file is rejected too: it is the result of a failed copy."""
    (tmp_path / name).write_bytes(body)
    with pytest.raises(BundleInvalid, match=said) as refused, opened(tmp_path / name) as archive:
        read_bundle(archive)
    assert "\n" not in str(refused.value)


PACKED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("pack", PACKED.values(), ids=PACKED)
def test_compressed_archive_is_decompressed_once(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """Into an unnamed temporary file; the archive itself is not read again."""
    contents, blobs = an_image(os.urandom(50_000), bytes(3_000_000))
    write(tmp_path / "b.tar", contents, blobs)
    packed, place = tmp_path / "packed", tmp_path / "place"
    packed.write_bytes(pack((tmp_path / "b.tar").read_bytes()))
    place.mkdir()
    with opened(packed, UnpackDirectory(place, 0)) as archive:
        os.truncate(packed, 0)
        assert all_of(read_bundle(archive)) == blobs
        assert list(place.iterdir()) == []


@pytest.mark.needs("mount", root=True)
@pytest.mark.parametrize(("disk", "spare"), [(MIB, 0), (5 * MIB, 0), (16 * MIB, 12 * MIB), (0, 0)])
def test_compressed_archive_is_read_in_place_if_space_is_insufficient(tmp_path: Path, disk: int, spare: int) -> None:
    """One message says that this is slow. The space must suffice for the content, twice, and for `min_free`."""
    contents, blobs = an_image(os.urandom(50_000), bytes(3_000_000))
    write(tmp_path / "b.tar", contents, blobs)
    packed, messages = tmp_path / "b.tar.gz", list[str]()
    packed.write_bytes(gzip.compress((tmp_path / "b.tar").read_bytes()))
    with small_disk(tmp_path / "place", disk or MIB):
        place = UnpackDirectory(tmp_path / "place" / ("" if disk else "absent"), spare, messages.append)
        with opened(packed, place) as archive:
            assert all_of(read_bundle(archive)) == blobs
    assert [line for line in messages if "each image decompresses it again" in line] == messages
    assert len(messages) == 1


@pytest.mark.parametrize("pack", PACKED.values(), ids=PACKED)
def test_damaged_compressed_archive_is_reported(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """The message names the fix: copy it again."""
    contents, blobs = an_image(os.urandom(200_000))
    write(tmp_path / "b.tar", contents, blobs)
    whole = pack((tmp_path / "b.tar").read_bytes())
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for body in (whole[: len(whole) // 2], bytes(flipped)):
        (tmp_path / "b").write_bytes(body)
        with (
            pytest.raises(BundleInvalid, match="copy it again"),
            opened(tmp_path / "b", UnpackDirectory(tmp_path, 0)) as archive,
        ):
            all_of(read_bundle(archive))


def test_damaged_blob_fails_the_export(tmp_path: Path) -> None:
    """The message names the blob, and no file is left."""
    contents, blobs = an_image(b"right")
    blobs[Digest.of(b"right")] = b"wrong"
    with pytest.raises(StorageFailed, match=Digest.of(b"right").hex):
        write(tmp_path / "b.tar", contents, blobs)
    assert list(tmp_path.iterdir()) == []


def test_docker_save_archive_gets_manifests(tmp_path: Path) -> None:
    """Config and layers are unchanged, the layers' digests come from the config, and symbolic links are followed."""
    layer = b"a layer's tar"
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer))] * 2}}).encode()
    manifest = [{"Config": "c.json", "RepoTags": ["alpine:3.20"], "Layers": ["1/layer.tar", "2/layer.tar"]}]
    with tarfile.open(tmp_path / "d.tar", "w") as tar:
        for name, body in (
            ("1/layer.tar", layer),
            ("c.json", config),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            tar.addfile(entry, io.BytesIO(body))
        tar.addfile(_entry("2/layer.tar", tarfile.SYMTYPE, "../1/layer.tar"))
    with opened(tmp_path / "d.tar") as archive:
        bundle = read_bundle(archive)
        [image] = bundle.images
        assert image.name == "alpine:3.20"
        found = bundle.manifest(image.digest, None)
        assert found is not None
        assert {one.digest for one in found.references} == {Digest.of(layer), Digest.of(config)}
        assert all_of(bundle) == {Digest.of(layer): layer, Digest.of(config): config, image.digest: found.body}


def test_directory_is_read_like_a_tar(tmp_path: Path) -> None:
    """A link that leads outside the directory is ignored."""
    contents, blobs = an_image(b"x")
    write(tmp_path / "b.tar", contents, blobs)
    with tarfile.open(tmp_path / "b.tar") as tar:
        tar.extractall(tmp_path / "layout", filter="data")
    outside = Digest.of(b"outside")
    (tmp_path / "outside").write_bytes(b"outside")
    (tmp_path / "layout" / "blobs" / "sha256" / outside.hex).symlink_to(tmp_path / "outside")
    with opened(tmp_path / "layout") as archive:
        assert all_of(read_bundle(archive)) == blobs
