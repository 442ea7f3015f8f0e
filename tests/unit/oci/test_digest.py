"""Digests: one spelling each, and verification of content in pieces of any size."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import DigestInvalid, IntegrityError
from mirror.oci.digest import ALGORITHMS, Digest, Verifier
from tests.unit.refusals import parsed
from tests.unit.texts import anything, digests

HEX = hashlib.sha256(b"").hexdigest()
algorithms = st.sampled_from(ALGORITHMS)


@given(digests)
def test_digest_round_trips_through_text(digest: Digest) -> None:
    """Parsing the text of a digest yields an equal digest."""
    assert Digest.parse(str(digest)) == digest


@given(anything(digests.map(str)))
def test_any_text_parses_to_itself_or_is_refused(text: str) -> None:
    """A digest has one spelling, which is safe in a path."""
    digest = parsed(lambda: Digest.parse(text), DigestInvalid)
    if digest is None:
        return
    assert str(digest) == text
    assert digest.algorithm in ALGORITHMS
    assert set(digest.hex) <= set("0123456789abcdef")
    assert len(digest.hex) == {"sha256": 64, "sha512": 128}[digest.algorithm]


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        f"sha256:{HEX.upper()}",
        f"SHA256:{HEX}",
        f"sha256-{HEX}",
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX}\n",
        f" sha256:{HEX}",
        f"sha256:{HEX[:-1]}\0",
        f"sha256:{HEX[:-3]}/..",
        f"sha256:{HEX[:-1]}\N{ARABIC-INDIC DIGIT THREE}",
        f"sha256%3A{HEX}",
        f"sha256:{HEX}{HEX}",
        f"sha512:{HEX}",
        f"sha1:{HEX[:40]}",
        f"md5:{HEX[:32]}",
        f"../sha256:{HEX}",
        "sha256:" + "a" * 10_000,
    ],
)
def test_other_spelling_is_refused(text: str) -> None:
    """No normalization: two spellings of a digest would be two names of one file."""
    with pytest.raises(DigestInvalid):
        Digest.parse(text)


@given(st.binary(), algorithms)
def test_digest_of_content_is_its_hash(content: bytes, algorithm: str) -> None:
    """FIPS 180-4, by algorithm name."""
    assert Digest.of(content, algorithm) == Digest(algorithm, hashlib.new(algorithm, content).hexdigest())


@given(st.lists(st.binary()), algorithms, st.booleans())
def test_content_is_verified_in_pieces_of_any_size(pieces: list[bytes], algorithm: str, announced: bool) -> None:
    """Several pieces in one call, or one call for each piece; also without any piece."""
    content = b"".join(pieces)
    for calls in ([pieces], [[memoryview(piece)] for piece in pieces]):
        verifier = Verifier(Digest.of(content, algorithm))
        for call in calls:
            verifier.feed(call)
        assert verifier.size == len(content)
        verifier.finish(len(content) if announced else None)


@given(st.binary(), st.binary(), algorithms)
def test_other_content_fails_verification(content: bytes, other: bytes, algorithm: str) -> None:
    """A size may have been announced or not, right or wrong."""
    verifier = Verifier(Digest.of(content, algorithm))
    verifier.feed([other])
    for size in (None, len(content), len(other)):
        if other == content:
            verifier.finish(size)
        else:
            with pytest.raises(IntegrityError):
                verifier.finish(size)


@given(st.binary(), st.integers(0, 100))
def test_right_content_with_a_wrong_announced_size_fails(content: bytes, announced: int) -> None:
    """The digest or the announced size is wrong, and the upstream sent both."""
    verifier = Verifier(Digest.of(content))
    verifier.feed([content])
    if announced == len(content):
        verifier.finish(announced)
    else:
        with pytest.raises(IntegrityError):
            verifier.finish(announced)
