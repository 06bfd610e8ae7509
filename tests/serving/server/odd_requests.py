"""Helper: requests that servers read in different ways, with `%b` where the target goes."""

from collections.abc import Iterator
from random import Random

TARGETS = (b"/plain", b"/fast", b"/unread")  # of `echo_app`


def request(*lines: bytes, body: bytes = b"", first: bytes = b"POST %b?a=b%%20c HTTP/1.1") -> bytes:
    return b"\r\n".join([first, b"Host: a", *lines, b"", body])


BODY = b"abc"
LENGTH = b"Content-Length: 3"
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = b"3\r\nabc\r\n0\r\n\r\n"

LENGTHS = [
    b"3",
    b" 3",
    b"3 ",
    b"\t3",
    b"3\t",
    b"003",
    b"0",
    b"",
    b" ",
    b"+3",
    b"-3",
    b"-0",
    b"3, 3",
    b"3,3",
    b"3 3",
    b"3;a",
]
LENGTHS += [
    b"0x3",
    b"3.0",
    b"1e0",
    b"\xb3",
    b"'3'",
    b'"3"',
    b"3\x0b",
    b"9" * 19,
    b"9" * 40,
    b"4",
    b"2",
    b"3\x00",
    b"\xc2\xa03",
]
SIZES = [
    b"3",
    b"03",
    b"0000003",
    b"3;a",
    b"3;a=b",
    b'3;a="b"',
    b"3 ;a=b",
    b"3; a=b",
    b"3;",
    b"3;;",
    b"3 ",
    b" 3",
    b"3\t",
    b"+3",
    b"-3",
]
SIZES += [
    b"0x3",
    b"3x",
    b"",
    b";a",
    b"g",
    b"3;\x01",
    b"3;a=\xff",
    b"0" * 17 + b"3",
    b"f" * 16,
    b"f" * 17,
    b"4",
    b"2",
    b"3,3",
    b"3.0",
]
CHUNKED_BODIES = [
    *(size + b"\r\nabc\r\n0\r\n\r\n" for size in SIZES),
    b"A\r\n0123456789\r\n0\r\n\r\n",
    b"a\r\n0123456789\r\n0\r\n\r\n",
    b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
    b"3\r\nabc\r\n00\r\n\r\n",
    b"3\r\nabc\r\n0;a\r\n\r\n",
    b"3\r\nabc0\r\n\r\n",
    b"3\r\nabc\n0\r\n\r\n",
    b"3\nabc\r\n0\r\n\r\n",
    b"3\r\nabc\r\n0\n\r\n",
    b"3\r\nabc\r\n0\r\n\n",
    b"3\r\nabc\r\n0\r\n",
    b"3\r\nabc\r\n0\r\nX: y\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX: y\r\nZ: y\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX y\r\n\r\n",
    b"3\r\nabc\r\n0\r\n: y\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX : y\r\n\r\n",
    b"3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n",
    b"3\r\nabc\r\n0\r\nHost: b\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX: y\n\r\n",
    b"3\r\nabc\r\n0\r\nX: y\0\r\n\r\n",
    b"3\r\rabc\r\n0\r\n\r\n",
    b"\r\n3\r\nabc\r\n0\r\n\r\n",
    b"0\r\n\r\n",
]
CODINGS = [
    b"chunked",
    b"Chunked",
    b" chunked",
    b"chunked ",
    b"chunked,",
    b",chunked",
    b"chunked, chunked",
    b"identity",
    b"gzip",
]
CODINGS += [
    b"gzip, chunked",
    b"chunked, gzip",
    b"identity, chunked",
    b"xchunked",
    b"chunkedx",
    b"chunked;a=b",
    b'"chunked"',
    b"",
    b"\x0bchunked",
]
HEADERS = [
    b"X: a",
    b"X:a",
    b"X:",
    b"X: ",
    b"X:\ta\t",
    b"X : a",
    b"X\t: a",
    b" X: a",
    b"\tX: a",
    b": a",
    b":",
    b"X",
    b"X a",
    b"X: a\r\n b",
]
HEADERS += [
    b"X: a\r\n\tb",
    b"X: a\r\n",
    b"X: a\n",
    b"X: a\nY: b",
    b"X: a\rY: b",
    b"X: a\r",
    b"X: a\0b",
    b"X\0: a",
    b"X: a\x01",
    b"X: a\x7f",
]
HEADERS += [
    b"X: \xff",
    b"X\xff: a",
    b"X(: a",
    b"X_A: a",
    b"X-A: a",
    b"X_A: a\r\nX-A: b",
    b"Host: b",
    b"HOST: a",
    b"Host:",
    b"X: a\r\nX: b",
]
HEADERS += [
    b"X-Request-ID: 1\r\nX-Request-ID: 2",
    b"Content-Type: a",
    b"Content-Type: a\r\nContent-Type: b",
    b"Content_Length: 5",
    b"Content-Length : 5",
]
HEADERS += [
    b"Connection: close",
    b"Connection: Close",
    b"Connection: keep-alive",
    b"Connection: keep-alive, close",
    b"Connection: x, close",
    b"Connection: closed",
]
HEADERS += [
    b"Connection: keep-alive\r\nConnection: close",
    b"Connection: close\r\nConnection: keep-alive",
    b"Connection: Content-Length",
    b"Connection: Upgrade",
]
HEADERS += [
    b"Connection: Upgrade\r\nUpgrade: h2c",
    b"Upgrade: websocket",
    b"Expect: 100-continue",
    b"Expect: 100-Continue",
    b"Expect: 100",
    b"Expect: x",
]
HEADERS += [
    b"HTTP2-Settings: a",
    b"Proxy-Connection: close",
    b"Proxy: http://b",
    b"Script-Name: /a",
    b"Path-Info: /b",
    b"X-Forwarded-Proto: https",
    b"Forwarded: for=b",
]
HEADERS += [
    b"X-Forwarded-For: 1.2.3.4",
    b"Trailer: X",
    b"TE: trailers",
    b"X: " + b"a" * 4_000,
    b"X" * 200 + b": a",
    b"X: " + b"a" * 9_000,
    b"X: a\r\n" * 120 + b"Y: b",
]
FIRST = [
    b"GET %b HTTP/1.1",
    b"GET %b HTTP/1.0",
    b"GET %b HTTP/0.9",
    b"GET %b",
    b"GET %b HTTP/2.0",
    b"GET %b HTTP/1.2",
    b"GET %b HTTP/1",
    b"GET %b HTTP/11",
]
FIRST += [
    b"GET %b http/1.1",
    b"GET  %b HTTP/1.1",
    b"GET %b  HTTP/1.1",
    b"GET %b HTTP/1.1 ",
    b" GET %b HTTP/1.1",
    b"GET\t%b HTTP/1.1",
    b"GET %b\tHTTP/1.1",
]
FIRST += [
    b"GET %b HTTP/1.1\t",
    b"get %b HTTP/1.1",
    b"Get %b HTTP/1.1",
    b"G %b HTTP/1.1",
    b"GETT %b HTTP/1.1",
    b"G:T %b HTTP/1.1",
    b"GE\0 %b HTTP/1.1",
    b" HTTP/1.1",
]
FIRST += [
    b"HEAD %b HTTP/1.1",
    b"PUT %b HTTP/1.1",
    b"DELETE %b HTTP/1.1",
    b"OPTIONS %b HTTP/1.1",
    b"PATCH %b HTTP/1.1",
    b"TRACE %b HTTP/1.1",
    b"CONNECT %b HTTP/1.1",
]
FIRST += [
    b"GET %b?a=b&c=%%00 HTTP/1.1",
    b"GET %b%%2f%%41 HTTP/1.1",
    b"GET %b%%zz HTTP/1.1",
    b"GET %b/../x HTTP/1.1",
    b"GET %b?a?b#c HTTP/1.1",
    b"GET %b#c HTTP/1.1",
]
FIRST += [
    b"GET %b;a=b HTTP/1.1",
    b"GET %b\xff HTTP/1.1",
    b"GET %b\x01 HTTP/1.1",
    b"GET %b\0 HTTP/1.1",
    b'GET %b"<>\\^`{|} HTTP/1.1',
    b"GET %b x HTTP/1.1",
    b"GET /%b HTTP/1.1",
]
FIRST += [
    b"GET http://b%b?c HTTP/1.1",
    b"GET HTTP://b%b HTTP/1.1",
    b"GET https://b:80%b HTTP/1.1",
    b"GET http://b HTTP/1.1",
    b"GET * HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
]
FIRST += [
    b"GET b:80 HTTP/1.1",
    b"CONNECT b:80 HTTP/1.1",
    b"GET x%b HTTP/1.1",
    b"GET ?a HTTP/1.1",
    b"\r\nGET %b HTTP/1.1",
    b"\r\n\r\nGET %b HTTP/1.1",
    b"\nGET %b HTTP/1.1",
]
FIRST += [
    b"GET %b HTTP/1.1\n",
    b"GET %b HTTP/1.1\r",
    b"GET %b" + b"a" * 3_900 + b" HTTP/1.1",
    b"GET %b" + b"a" * 5_000 + b" HTTP/1.1",
    b"PRI * HTTP/2.0",
    b"\x16\x03\x01",
    b"",
]


def single_requests() -> Iterator[bytes]:
    """One odd request each, with the target to be filled in."""
    for first in FIRST:
        yield request(first=first)
    for first in (b"GET %b HTTP/1.1", b"POST %b HTTP/1.0", b"GET http://b%b HTTP/1.1"):
        yield request(LENGTH, first=first, body=BODY)
        yield request(CHUNKED, first=first, body=CHUNKS)
        yield request(LENGTH, b"Connection: keep-alive", first=first, body=BODY)
    for header in HEADERS:
        yield request(header, LENGTH, body=BODY)
        yield request(header)
    for length in LENGTHS:
        yield request(b"Content-Length:" + length, body=BODY)
    for one, other in ((b"3", b"3"), (b"3", b"4"), (b"3", b""), (b"0", b"3")):
        yield request(b"Content-Length: " + one, b"Content-Length: " + other, body=BODY)
        yield request(b"Content-Length: " + one, b"content-length:" + other, body=BODY)
    for coding in CODINGS:
        yield request(b"Transfer-Encoding:" + coding, body=CHUNKS)
        yield request(b"Transfer-Encoding:" + coding, LENGTH, body=CHUNKS)
    yield request(CHUNKED, CHUNKED, body=CHUNKS)
    yield request(b"Transfer_Encoding: chunked", body=CHUNKS)
    yield request(b"Transfer-Encoding : chunked", body=CHUNKS)
    yield request(b"X: a\r\n Transfer-Encoding: chunked", LENGTH, body=CHUNKS)
    for body in CHUNKED_BODIES:
        yield request(CHUNKED, body=body)
    yield request(LENGTH, b"", body=BODY)
    yield request(b"Content-Length: 100", body=BODY)
    yield request(LENGTH, body=BODY).replace(b"\r\n", b"\n")


USUAL = [
    request(LENGTH, body=BODY),
    request(first=b"GET %b?q HTTP/1.1"),
    request(CHUNKED, body=CHUNKS),
    request(b"Content-Length: 11", b"X-Request-ID: 2", b"traceparent: 00-1-1-01", body=b"GET / HTTP/"),
]
ODD = [
    request(LENGTH, b"X : a", body=BODY),
    request(b"Content-Length: x", body=BODY),
    request(LENGTH, CHUNKED, body=CHUNKS),
    request(CHUNKED, body=b"g\r\n"),
    request(LENGTH, b"Connection: close", body=BODY),
    request(LENGTH, first=b"POST %b HTTP/1.0", body=BODY),
    request(LENGTH, b"Connection: keep-alive", first=b"POST %b HTTP/1.0", body=BODY),
    b"\r\n",
    b"\0",
]


def pipelines() -> Iterator[bytes]:
    """Two to five requests at once, with an odd one in each place."""
    for n in range(2, 6):
        usual = [USUAL[i % len(USUAL)] for i in range(n)]
        yield b"".join(usual)
        for place in range(n):
            for odd in ODD:
                yield b"".join([*usual[:place], odd, *usual[place + 1 :]])


def aimed(requests: Iterator[bytes]) -> list[bytes]:
    """Requests at each target."""
    return [one.replace(b"%b", target).replace(b"%%", b"%") for one in requests for target in TARGETS]


def mutations(n: int) -> Iterator[bytes]:
    """Usual requests of which a byte is lost, doubled or another."""
    random = Random(0)
    others = [bytes([one]) for one in b"\0\t\n\r :;,/=-+%0139aAxX\x7f\x80\xff"]
    for _ in range(n):
        data = bytearray(b"".join(random.choices(USUAL, k=2)).replace(b"%b", b"/plain").replace(b"%%", b"%"))
        place = random.randrange(len(data) // 2)
        data[place : place + random.randrange(2)] = random.choice([b"", *others, data[place : place + 1]])
        yield bytes(data)
