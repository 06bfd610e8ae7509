"""Paths that a proxy reads otherwise than the application, and methods."""

import socket

import pytest

GET_PATHS = ["/", "/health/live", "/health/ready", "/metrics", "/model", "/openapi.json", "/docs", "/v2", "/ping"]


DOUBLE = ["//predict", "///predict", "//admin/promote", "//metrics", "//health/live", "//v2/models/toy/infer"]


@pytest.mark.parametrize("path", DOUBLE)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_path_with_two_slashes_at_its_beginning_is_not_found(client, path, method):
    response = client.open("/", method=method, environ_overrides={"PATH_INFO": path}, json={"features": [[1, 0]]})
    assert response.status_code == 404


@pytest.mark.parametrize("path", GET_PATHS)
def test_head_is_what_get_is_without_the_body(client, path):
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content_type, head.data) == (get.status_code, get.content_type, b"")


CHUNKED = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED += b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b'{"features": [[1, 0]]}'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"16\r\n" + BODY + b"\r\n0\r\n\r\n", 200),
        (b"zz\r\n" + BODY + b"\r\n0\r\n\r\n", 400),
        (b"-16\r\n" + BODY + b"\r\n0\r\n\r\n", 400),
        (b"5\r\n" + BODY + b"\r\n0\r\n\r\n", 400),
        (b"16 \x00\r\n" + BODY + b"\r\n0\r\n\r\n", 400),
    ],
    ids=["well-formed", "no number", "negative", "too short", "control character"],
)
def test_malformed_chunked_body_is_a_client_error_and_no_defect(service, body, status):
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(CHUNKED + body)
        line = connection.makefile("rb").readline()
    assert line.split()[1] == str(status).encode()
    assert service.call("POST", "/predict", {"features": [[1, 0]]})[0] == 200
