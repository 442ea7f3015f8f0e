"""Invalid and unusual pieces of HTTP requests, responses, tokens and manifests, from which inputs are made."""

from collections.abc import Iterator, Mapping, Sequence


def _lines(values: Mapping[bytes, Sequence[bytes]]) -> Iterator[bytes]:
    """Yield header lines; a value may contain further lines."""
    return (b"%s: %s" % (name, value) for name, several in values.items() for value in several)


MANY_HEADERS = [b"\r\n".join(b"X-%d: a" % number for number in range(count)) for count in (60, 200, 300)]
_LENGTHS = (b"0", b"5", b"-1", b"5, 5", b"1, 2", b"+5", b"0x5", b"1e3", b"99999999999999999999", b"")
_CODINGS = (
    *(b"chunked", b"CHUNKED", b"xchunked", b"identity", b"gzip", b"gzip, chunked", b"chunked, chunked"),
    *(b"chunked, identity", b"\x0bchunked", b"\r\n chunked"),
)
_INVALID_HEADERS = (
    b": a",
    b"no colon",
    b" X: a",
    b"X : a",
    b"X\0: a",
    b"X: a\0b",
    b"X: a\r\n b",
    b"X: a\nY: b",
    b"X: a\rY: b",
)

# Requests of a client.

METHODS = (b"GET",) * 12 + (b"HEAD",) * 3 + (b"POST", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"PRI", b"get")
VERSIONS = (b"HTTP/1.1",) * 30 + (b"HTTP/1.0",) * 3 + (b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.10", b"http/1.1", b"")
_RANGES = (
    *(b"bytes=0-9", b"bytes=-5", b"bytes=5-", b"bytes=0-0,5-6,9-9", b"bytes=9-0", b"bytes=99999999-", b"items=0-1"),
    *(b"bytes=0-,0-,0-,0-", b"bytes=" + b"1-2," * 500, b"bytes=0-9\r\nRange: bytes=1-2"),
)
HARMLESS = (
    *_lines(
        {
            b"Range": _RANGES,
            b"If-None-Match": (b"*", b'"x', b'W/"y", "z"'),
            b"If-Range": (b"x",),
            b"Accept": (b"*/*;q=2", b"application/json", b""),
            b"Accept-Encoding": (b"gzip",),
            b"Authorization": (b"Basic dTpw", b"Bearer x\ty", b"\xff"),
            b"Connection": (b"close", b"keep-alive", b"Host, Range"),
            b"Expect": (b"100-continue", b"something"),
            b"Upgrade": (b"h2c", b"websocket"),
            b"X": (b"", b"\xff\xfe", b"a" * 7000),
            b"X-HTTP-Method-Override": (b"PUT",),
            b"X-Original-URL": (b"/metrics",),
            b"X-Forwarded-Host": (b"other",),
            b"TE": (b"trailers",),
            b"Via": (b"1.0 x",),
            b"Cookie": (b"a=b",),
        }
    ),
    MANY_HEADERS[0],
)
AMBIGUOUS = (
    *_lines(
        {
            b"Content-Length": _LENGTHS,
            b"Content-Length ": (b"5",),
            b"Transfer-Encoding": _CODINGS,
            b"Transfer-Encoding ": (b"chunked",),
            b"Connection": (b"Upgrade\r\nUpgrade: h2c", b"Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13"),
            b"Host": (b"other.test", b"", b"a b", b"[::1"),
            b"X": (b"a" * 9000,),
        }
    ),
    *_INVALID_HEADERS,
    MANY_HEADERS[1],
)
BODIES = (  # with the header of each; most are empty, since a body breaks the requests behind it
    *((b"", b""),) * 9,
    (b"Content-Length: 5", b"hello"),
    (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"5\nhello\n0\n\n"),
    (b"", b"hello"),
    (b"Content-Length: 50", b"GET /v2/ HTTP/1.1\r\nHost: inner\r\n\r\n"),
)

# Responses of an upstream.

STATUSES = (
    *(b"HTTP/1.1 200", b"HTTP/1.0 200 OK", b"HTTP/0.9 200 OK", b"HTTP/2 200", b"ICY 200 OK", b"200 OK", b""),
    *(b"HTTP/1.1 %s Odd" % code for code in (b"2000", b"-1", b"099", b"999", b"101", b"204", b"206", b"301", b"304")),
    *(b"HTTP/1.1 %s No" % code for code in (b"401", b"403", b"404", b"416", b"429", b"500", b"503")),
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK",
    b"HTTP/1.1 103 Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK",
)
HEADERS = (
    *_lines(
        {
            b"Content-Length": _LENGTHS,
            b"Transfer-Encoding": _CODINGS,
            b"Content-Encoding": (b"gzip", b"\r\n x"),
            b"Content-Type": (
                *(b"text/html", b"a/b\r\n c/d", b"a/b\x00", b"\xff/\xfe", b"a" * 5000),
                *(b"a/b\nX-Injected: yes", b"a/b\rX-Injected: yes"),
            ),
            b"Docker-Content-Digest": (
                *(b"sha256:" + b"0" * 64, b"SHA256:" + b"A" * 64, b"sha512:" + b"0" * 128),
                *(b"md5:00", b"../../x"),
            ),
            b"Content-Range": (
                *(b"bytes 0-4/5", b"bytes 9-4/5", b"bytes */*", b"bytes 0-4/*", b"x"),
                b"bytes 0-99999999999999999999/99999999999999999999",
            ),
            b"Link": (
                *(b'</v2/a/tags/list?n=1&last=%0d%0aX>; rel="next"', b"<http://127.0.0.1/?a>;rel=next", b"<x"),
                *(b"<" * 5000, b"<?" + b"a&" * 500 + b">; rel=next"),
            ),
            b"Location": (b"http://169.254.169.254/", b"//"),
            b"Retry-After": (b"99999999999", b"-1", b"Fri, 31 Dec 9999 23:59:59 GMT"),
            b"ratelimit-remaining": (b"-5;w=x", b"99999999999999999999999;w=1", b"0;w=0", b"\xff"),
            b"ratelimit-limit": (b"\xff", b"1;w=99999999999999999999"),
            b"WWW-Authenticate": (b"Basic",),
            b"Set-Cookie": (b"a=b",),
            b"Connection": (b"close", b"Content-Length"),
            b"OCI-Filters-Applied": (b"artifactType",),
            b"Upgrade": (b"h2c",),
            b"Trailer": (b"X",),
            b"X": (b"a" * 70_000,),
        }
    ),
    *_INVALID_HEADERS,
    MANY_HEADERS[2],
)
FORBIDDEN = (  # hosts that the mirror must not contact because of an upstream with a public address
    *("127.0.0.1", "localhost", "[::1]", "10.0.0.1", "192.168.0.1", "172.16.0.1", "100.64.0.1", "169.254.169.254", "0"),
    *("0.0.0.0", "2130706433", "0x7f.1", "127.1", "017700000001", "[::ffff:127.0.0.1]", "[fe80::1]", "[fd00:ec2::254]"),
    *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "127.0.0.1.", "224.0.0.1", "255.255.255.255", "[::]", "user@127.0.0.1"),
    *("203.0.113.10@127.0.0.1", "203.0.113.10\\@127.0.0.1", "[::ffff:a9fe:a9fe]", "168.63.129.16", "100.100.100.200"),
)
CHALLENGES = (
    *('Bearer realm="{}",service="s",scope="repository:a:pull"', 'Basic, Bearer realm="{}"'),
    *("Bearer realm={}", 'Bearer realm="{}'),
)
TOKENS = (
    *(b"{}", b"[]", b"null", b'"token"', b"{", b"\xff\xfe", b"[" * 100_000, b'{"token":1}', b'{"token":""}'),
    *(b'{"token":"a\\r\\nX: y"}', b'{"token":"\\u0000"}', b'{"access_token":"\xc3\xa9"}'),
    *(b'{"token":"x","expires_in":%s}' % life for life in (b"-1", b"1e400", b'"60"', b"NaN", b"true", b"9" * 5000)),
    *(b'{"token":"%s"}' % (b"x" * 9000), b'{"token":"x"%s}' % (b" " * 300_000)),
)
_ENTRIES = (
    *(b'"layers":5', b'"layers":[{"digest":"../../x","size":-1}]', b'"layers":[null,1,"a",[],{}]', b'"config":[]'),
    *(b'"mediaType":"a/b\\r\\nX: y"', b'"mediaType":{}', b'"subject":{"digest":"x"}', b'"schemaVersion":NaN'),
    b'"manifests":[{"digest":"sha256:%s","size":1e99}]' % (b"0" * 64),
)
MANIFESTS = (
    *(b"", b"{", b"{}", b"null", b"[]", b"[" * 100_000, b"<html>", b"\0" * 1000, b"\xff", b"x" * 5_000_000),
    *(b'{"schemaVersion":2}', b'{"tags":[1,null]}', *(b'{"schemaVersion":2,%s}' % entry for entry in _ENTRIES)),
)
