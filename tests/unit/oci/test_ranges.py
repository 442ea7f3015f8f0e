"""Range and Content-Range headers (RFC 9110, section 14)."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirror.errors import RangeUnsatisfiable
from mirror.oci.ranges import ContentRange, Span, requested_spans
from tests.unit.texts import anything

Wanted = tuple[int | None, int | None]

sizes = st.integers(0, 60)
offsets = st.integers(0, 70)
wanteds = st.lists(
    st.tuples(offsets, st.none() | st.integers(0, 70)).map(
        lambda pair: (pair[0], None if pair[1] is None else pair[0] + pair[1])
    )
    | offsets.map(lambda suffix: (None, suffix)),
    min_size=1,
    max_size=4,
)


def written(wanted: Wanted) -> str:
    first, last = wanted
    return f"{'' if first is None else first}-{'' if last is None else last}"


def part(blob: bytes, wanted: Wanted) -> bytes:
    """Return the bytes that one range selects, computed by slicing (14.1.2)."""
    first, last = wanted
    if first is None:
        return blob[-last:] if last else b""
    return blob[first:] if last is None else blob[first : last + 1]


@given(st.lists(wanteds), sizes, st.sampled_from(["bytes=", "Bytes=", "bytes =", "BYTES="]))
@example([[(None, 5)]], 3, "bytes=")
@example([[(3, None)]], 3, "bytes=")
@example([[(2, 2)]], 3, "bytes=")
@example([[(0, 0), (9, 9)]], 1, "bytes=")
def test_spans_select_the_bytes_of_the_ranges(wanteds: list[list[Wanted]], size: int, unit: str) -> None:
    """In order, without ranges beyond the end. None left: 416. More bytes than the blob in total: the whole."""
    blob = bytes(range(size))
    for ranges in wanteds:
        parts = [found for one in ranges if (found := part(blob, one))]
        header = unit + ",".join(map(written, ranges))
        if not parts:
            if any(first is None and last for first, last in ranges):
                continue  # the suffix of an empty blob has a test of its own, below
            with pytest.raises(RangeUnsatisfiable) as refusal:
                requested_spans(header, size)
            assert refusal.value.size == size
            continue
        spans = requested_spans(header, size)
        if len(parts) > 1 and sum(map(len, parts)) > size:
            assert spans is None
        else:
            assert spans is not None
            assert [blob[span.start : span.end] for span in spans] == parts
            assert all(0 <= span.start < span.end <= size for span in spans)


@given(wanteds.filter(lambda ranges: any(part(bytes(60), one) for one in ranges)))
def test_white_space_and_empty_list_elements_are_ignored(ranges: list[Wanted]) -> None:
    """A list may contain both (5.6.1)."""
    texts = list(map(written, ranges))
    plain = requested_spans("bytes=" + ",".join(texts), 60)
    assert requested_spans("bytes= ,\t" + " ,, ".join(texts) + " ,", 60) == plain


@given(st.integers(1), st.integers(1, 2**62))
def test_suffix_range_selects_the_end_of_the_blob(length: int, size: int) -> None:
    """A suffix longer than the blob selects all of it (14.1.2)."""
    if len(str(length)) < 40:
        assert requested_spans(f"bytes=-{length}", size) == (Span(max(0, size - length), size),)


def test_suffix_range_of_an_empty_blob_selects_the_whole() -> None:
    """A suffix is satisfiable unless its length is 0 (14.1.2), but no Content-Range can express no bytes: 200."""
    assert requested_spans("bytes=-5", 0) is None


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "bytes", "bytes=", "bytes=,", "bytes=-", "bytes=a-b", "bytes=1", "bytes=2-1", "bytes=0-0,2-1"),
        *("items=0-1", "bytes 0-1", "bytes=0-1-2", "bytes=--1", "bytes=+1-2", "bytes=0x1-2", "bytes=1.5-2", "0-1"),
        *("bytes=0 -1", "bytes=0-\0", "bytes=0_0-1", "bytes=" + "0-0," * 1025, "bytes=" + "1" * 10_000 + "-"),
    ],
)
def test_invalid_range_header_is_ignored(header: str | None) -> None:
    """Another unit, invalid grammar, too many ranges: the whole blob (14.2)."""
    assert requested_spans(header, 10) is None


@pytest.mark.parametrize("text", ["\N{ARABIC-INDIC DIGIT THREE}-", "-\N{FULLWIDTH DIGIT ONE}", "0-\N{THAI DIGIT NINE}"])
def test_only_ascii_digits_are_accepted(text: str) -> None:
    """DIGIT is %x30-39 (RFC 5234)."""
    assert requested_spans(f"bytes={text}", 10) is None
    assert ContentRange.parse(f"bytes {text.strip('-')}-9/10") is None


@given(anything(wanteds.map(lambda ranges: "bytes=" + ",".join(map(written, ranges)))), sizes)
def test_any_range_header_yields_spans_whole_or_416(header: str, size: int) -> None:
    """The spans lie within the blob, and their total is at most its size."""
    try:
        spans = requested_spans(header, size)
    except RangeUnsatisfiable:
        return
    if spans is not None:
        assert spans
        assert all(0 <= span.start < span.end <= size for span in spans)
        assert sum(map(len, spans)) <= size


@given(st.integers(0, 2**62), st.integers(1, 2**62), st.integers(0, 100))
def test_content_range_round_trips(start: int, length: int, more: int) -> None:
    """The complete size may be `*` (14.4)."""
    span = Span(start, start + length)
    size = span.end + more
    assert ContentRange.parse(span.content_range(size)) == ContentRange(span, size)
    assert ContentRange.parse(f"bytes {start}-{span.end - 1}/*") == ContentRange(span, None)


@given(anything(st.tuples(offsets, offsets, offsets).map(lambda at: "bytes {}-{}/{}".format(*at))))
def test_parsed_content_range_is_not_empty(header: str) -> None:
    """Any other header parses to None."""
    part = ContentRange.parse(header)
    assert part is None or 0 <= part.span.start < part.span.end


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes */10",
        "bytes 5-4/10",
        "bytes 0-9",
        "items 0-9/10",
        "bytes 0-9/10\n",
        "bytes 0-9/-1",
        "bytes=0-9/10",
    ],
)
def test_invalid_content_range_parses_to_none(header: str | None) -> None:
    """Unsatisfied, backwards, of another unit, or malformed: no place for the bytes."""
    assert ContentRange.parse(header) is None


@pytest.mark.parametrize("header", ["bytes 0-9/9", "bytes 5-10/10", "bytes 10-10/10", "bytes 0-0/0"])
def test_content_range_beyond_its_size_parses_to_none(header: str) -> None:
    """A last position at or after the complete length is invalid (14.4)."""
    assert ContentRange.parse(header) is None
