"""Hypothesis strategies for texts of clients and registries: valid, nearly valid, and arbitrary."""

import string

from hypothesis import strategies as st

from mirror.oci.digest import Digest

_ALPHANUMERIC = string.ascii_lowercase + string.digits
_FRAGMENTS = (
    *("..", "../", "/..", "./", "//", "/", "%2F", "%2e%2e", "%00", "%3A", "%", "\0", "\n", "\r\n", " ", "\t", "?", "#"),
    *("\\", ":", "@", "&ns=", "ns=", "<", ">", '"', ";", ",", "=", "-", "--", "_", "___", ".", "A", "Z", "é", "\ud800"),
    *("\N{KELVIN SIGN}", "\N{ARABIC-INDIC DIGIT THREE}", "\N{LATIN SMALL LETTER LONG S}", "x" * 10_000),
    *("manifests", "/manifests/", "/blobs/", "/v2/", "/tags/list"),
)

hexes = st.text("0123456789abcdef", min_size=64, max_size=64)
digests = hexes.map(lambda hex_: Digest("sha256", hex_)) | st.tuples(hexes, hexes).map(
    lambda halves: Digest("sha512", "".join(halves))
)
tags = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True).filter(str.isascii)


@st.composite
def _components(draw: st.DrawFn) -> str:
    runs = draw(st.lists(st.text(_ALPHANUMERIC, min_size=1, max_size=6), min_size=1, max_size=3))
    separators = st.sampled_from([".", "_", "__", "-", "--", "----"])
    return "".join(run if at == 0 else draw(separators) + run for at, run in enumerate(runs))


components = _components() | st.sampled_from(["manifests", "blobs", "v2", "tags", "list", "referrers", "library"])
names = st.lists(components, min_size=1, max_size=4).map("/".join)
hosts = st.lists(st.text(_ALPHANUMERIC, min_size=1, max_size=6), min_size=2, max_size=3).map(".".join)


@st.composite
def spoiled(draw: st.DrawFn, valid: st.SearchStrategy[str]) -> str:
    """Replace a part of a valid text with a fragment that may make it invalid."""
    text = draw(valid)
    fragment = draw(st.sampled_from(_FRAGMENTS) | st.text(max_size=3))
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 2)))
    return text[:start] + fragment + text[end:]


def anything(*valid: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return a strategy for any text, often valid or nearly valid."""
    return st.one_of(st.text(), *valid, *map(spoiled, valid))
