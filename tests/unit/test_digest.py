"""Digests: one spelling each, and content that is verified however it is cut."""

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
def test_a_digest_is_what_its_text_parses_to(digest: Digest) -> None:
    """Text and value stand for each other."""
    assert Digest.parse(str(digest)) == digest


@given(anything(digests.map(str)))
def test_a_text_is_a_digest_or_is_refused(text: str) -> None:
    """A digest has one spelling: what parses gives back the same text, and it is harmless in a path."""
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
def test_another_spelling_is_refused(text: str) -> None:
    """No normalization: two spellings of one digest would be two names of one file."""
    with pytest.raises(DigestInvalid):
        Digest.parse(text)


@given(st.binary(), algorithms)
def test_the_digest_of_content_is_its_hash(content: bytes, algorithm: str) -> None:
    """FIPS 180-4, by name of the algorithm."""
    assert Digest.of(content, algorithm) == Digest(algorithm, hashlib.new(algorithm, content).hexdigest())


@given(st.lists(st.binary()), algorithms, st.booleans())
def test_content_is_verified_however_it_is_cut(pieces: list[bytes], algorithm: str, announced: bool) -> None:
    """Pieces of any sizes, none included, make the whole; so does feeding them one by one."""
    content = b"".join(pieces)
    for calls in ([pieces], [[memoryview(piece)] for piece in pieces]):
        verifier = Verifier(Digest.of(content, algorithm))
        for call in calls:
            verifier.feed(call)
        assert verifier.size == len(content)
        verifier.finish(len(content) if announced else None)


@given(st.binary(), st.binary(), algorithms)
def test_other_content_is_not_accepted(content: bytes, other: bytes, algorithm: str) -> None:
    """With or without an announced size, right or wrong."""
    verifier = Verifier(Digest.of(content, algorithm))
    verifier.feed([other])
    for size in (None, len(content), len(other)):
        if other == content:
            verifier.finish(size)
        else:
            with pytest.raises(IntegrityError):
                verifier.finish(size)


@given(st.binary(), st.integers(0, 100))
def test_right_content_of_a_wrong_size_is_not_accepted(content: bytes, announced: int) -> None:
    """An upstream that announces another size lies about one of the two."""
    verifier = Verifier(Digest.of(content))
    verifier.feed([content])
    if announced == len(content):
        verifier.finish(announced)
    else:
        with pytest.raises(IntegrityError):
            verifier.finish(announced)
