"""Link headers for pagination: an upstream's are parsed, the mirror's lead to the mirror."""

from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.links import link_to, next_page
from tests.unit.texts import anything, names

pairs = st.tuples(st.text(max_size=8).filter(lambda name: name != "ns"), st.text(max_size=8))
queries = st.lists(pairs, max_size=4).map(tuple)
links = st.builds(lambda name, query: link_to(f"/v2/{name}/tags/list", query, None), names, queries)


@given(names, queries, st.none() | st.just("quay.io"))
def test_link_round_trips_through_the_parser(name: str, query: tuple[tuple[str, str], ...], ns: str | None) -> None:
    """The query comes back. `ns` is for the client that sent it, and never goes upstream."""
    link = link_to(f"/v2/{name}/tags/list", query, ns)
    assert next_page(link) == query
    target = urlsplit(link[link.index("<") + 1 : link.index(">")])
    assert (target.scheme, target.netloc, target.path) == ("", "", f"/v2/{name}/tags/list")
    own = [] if ns is None else [("ns", ns)]
    assert parse_qsl(target.query, keep_blank_values=True) == [*query, *own]
    assert link.isascii()
    assert link.isprintable()


@given(anything(links))
def test_any_header_parses_without_an_error(link: str) -> None:
    """The result is a query without ns, or no next page."""
    page = next_page(link)
    assert page is None or all(name != "ns" for name, _ in page)


@pytest.mark.parametrize(
    ("header", "query"),
    [
        ('</v2/a/tags/list?last=b&n=2>; rel="next"', (("last", "b"), ("n", "2"))),
        ("</v2/a/tags/list?last=b&n=2>; rel=next", (("last", "b"), ("n", "2"))),
        ('</v2/a/tags/list?last=b>;rel="next"', (("last", "b"),)),
        ('</v2/a/tags/list?last=b>; title="a, b; c"; REL="NEXT"', (("last", "b"),)),
        ('<https://other.example/v2/a/tags/list?next_page=x%3D%3D>; rel="next"', (("next_page", "x=="),)),
        ('<?last=b>; rel="next"', (("last", "b"),)),
        ('</v2/a/tags/list>; rel="next"', ()),
        ('</first>; rel="first", </v2/a/tags/list?last=b>; rel="next"', (("last", "b"),)),
    ],
)
def test_links_of_real_registries_parse(header: str, query: tuple[tuple[str, str], ...]) -> None:
    """Relative or absolute, quoted or not (RFC 8288, 3); also among other links."""
    assert next_page(header) == query


@pytest.mark.parametrize(
    "header",
    [
        *(
            None,
            "",
            "</v2/a?n=1>",
            '</v2/a?n=1>; rel="prev"',
            '</v2/a?n=1>; title="rel=next"',
            "rel=next",
            "<a",
            "<>",
            ";",
        ),
        "</v2/a?last=\udcff>; rel=next",  # a byte that is not UTF-8, as header parsers decode it
    ],
)
def test_header_without_a_next_link_ends_the_list(header: str | None) -> None:
    """No link, another relation, or invalid bytes: this page is the last."""
    assert next_page(header) is None
