"""Links to the next page: upstream's are read, the mirror's own lead to the mirror."""

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
def test_a_link_is_what_it_parses_to(name: str, query: tuple[tuple[str, str], ...], ns: str | None) -> None:
    """The query comes back; ns is for the client that asked with it, and is never sent upstream."""
    link = link_to(f"/v2/{name}/tags/list", query, ns)
    assert next_page(link) == query
    target = urlsplit(link[link.index("<") + 1 : link.index(">")])
    assert (target.scheme, target.netloc, target.path) == ("", "", f"/v2/{name}/tags/list")
    own = [] if ns is None else [("ns", ns)]
    assert parse_qsl(target.query, keep_blank_values=True) == [*query, *own]
    assert link.isascii()
    assert link.isprintable()


@given(anything(links))
def test_any_header_is_read(link: str) -> None:
    """A query without ns, or no next page."""
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
def test_what_registries_send(header: str, query: tuple[tuple[str, str], ...]) -> None:
    """Relative or absolute, quoted or not (RFC 8288, 3); among other links too."""
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
        "</v2/a?last=\udcff>; rel=next",  # a byte that is no UTF-8, as headers are read
    ],
)
def test_what_leads_nowhere(header: str | None) -> None:
    """No link, another relation, or what is no text: this page is the last one."""
    assert next_page(header) is None
