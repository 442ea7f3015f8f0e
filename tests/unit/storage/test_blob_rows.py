"""Rows of blobs, parsed in bulk: the result is the same as of each row alone, whatever other rows hold."""

import orjson
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirror.oci.digest import Digest
from mirror.storage.blob_rows import parse_blobs, parse_values

ROW = b'{"size":1,"used":2.0}'
fragments = st.sampled_from(
    ["{", "}", "[", "]", ",", ":", '"', "\\", "1", "a", " ", '"a":1', '{"size":1,"used":2.0}', "}}"]
)
texts = st.lists(fragments, max_size=8).map(lambda parts: "".join(parts).encode()) | st.binary(max_size=6)


@settings(max_examples=500)
@given(st.lists(texts | texts.map(lambda text: b"{" + text + b"}") | st.just(ROW) | st.none(), max_size=6))
@example([b'{"a":"}', b'{","b":1}', b'{"a":1},2'])
@example([b'{"a":"}', b'{","b":1}', b'{"a":1},{"b":2}'])
@example([b'{"a":"}', b'{","b":1}', b'{"a":1},"}'])
@example([b"{", b"}", ROW])
@example([b"1,1", b"", ROW])
def test_no_row_changes_the_value_of_another(rows: list[bytes | None]) -> None:
    """Otherwise a planted row could give another blob a wrong size."""
    assert parse_values(rows) == [value for row in rows for value in parse_values([row])]


@given(st.lists(texts))
def test_value_is_the_object_in_the_text(rows: list[bytes]) -> None:
    for row, value in zip(rows, parse_values(rows), strict=True):
        if value is not None:
            assert orjson.loads(row) == value


def test_key_determines_the_digest() -> None:
    """Keys of other rows, and keys that are not text, are no blobs."""
    hexes = b"0" * 64
    keys = [
        b"blob sha256:" + hexes,
        b"blob sha512:" + hexes,
        b"blob sha512:" + hexes * 2,
        b"blob sha256:" + b"\xff" * 64,
    ]
    blobs = parse_blobs([(key, ROW) for key in keys])
    assert blobs == [("0" * 64, 1, 2.0), None, ("0" * 128, 1, 2.0), None]


hexes = st.text("0123456789abcdef", min_size=64, max_size=64)
names = st.one_of(
    hexes | hexes.map(str.upper) | hexes.map(lambda text: text + "\n") | hexes.map(lambda text: text * 2),
    st.text("0aé٣g/.", min_size=31, max_size=128),
    st.integers(31, 128).map(lambda length: "é" * length),
)
prefixes = st.sampled_from(["blob sha256:", "blob sha512:", "blob sha1:", "held sha256:", ""])


@given(st.binary(max_size=150) | st.builds(lambda prefix, name: (prefix + name).encode(), prefixes, names))
@example(b"-")
@example(("blob sha256:" + "é" * 32).encode())
@example(("blob sha512:" + "é" * 64).encode())
@example(b"blob sha256:" + b"A" * 64)
@example(b"blob sha256:" + b"0" * 63 + b"\n")
def test_name_of_a_blob_is_that_of_a_digest(key: bytes) -> None:
    """The start builds a digest from each name: any other name would stop it."""
    digest = Digest.parse_or_none(key.decode("latin-1").removeprefix("blob ")) if key.startswith(b"blob ") else None
    assert parse_blobs([(key, ROW)]) == [None if digest is None else (digest.hex, 1, 2.0)]
