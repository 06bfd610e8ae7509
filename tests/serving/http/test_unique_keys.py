"""An object in which a key is twice has two meanings, so it is refused; any other JSON is taken as orjson takes it."""

import json

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlops_nb.serving.http import unique_keys
from mlops_nb.serving.http.body import parse_object
from mlops_nb.serving.http.errors import RequestError

TEXTS = st.text('a:"\\ {}[],\n\té', max_size=6)
SPACES = st.text(" \t\n\r", max_size=2)


class Pairs(list):
    """An object, with the pairs as they are written."""


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.lists(st.tuples(TEXTS, inner), max_size=4).map(Pairs)),
    max_leaves=12,
)


def is_twice(value) -> bool:
    """Whether a key is twice in any object."""
    if isinstance(value, Pairs):
        return len(dict(value)) < len(value) or any(is_twice(one) for _, one in value)
    return isinstance(value, list) and any(map(is_twice, value))


def write(value, draw) -> str:
    """Write JSON with any white space, and some texts as escapes alone."""
    space = lambda: draw(SPACES)  # noqa: E731
    if isinstance(value, Pairs):
        pairs = [f"{space()}{write(k, draw)}{space()}:{space()}{write(v, draw)}{space()}" for k, v in value]
        return "{" + (",".join(pairs) or space()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(f"{space()}{write(one, draw)}{space()}" for one in value) + "]"
    if isinstance(value, str) and draw(st.booleans()):
        return '"' + "".join(f"\\u{ord(c):04x}" for c in value) + '"'
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


@pytest.mark.slow
@given(VALUES, st.data())
def test_json_is_refused_exactly_if_a_key_is_twice_in_an_object(value, data):
    content = write(value, data.draw).encode()
    try:
        expected = orjson.loads(content)
    except orjson.JSONDecodeError:  # a number beyond its range
        return
    if is_twice(value):
        with pytest.raises(RequestError, match="twice in one object; send each key once"):
            unique_keys.loads(content)
    else:
        assert unique_keys.loads(content) == expected


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ('{"features": [[1]], "features": [[2]]}', "features"),
        ('{"features": [{"age": 1, "age": 2}]}', "age"),
        ('{"features": [{"age": 1, "\\u0061ge": 1}]}', "age"),
        ('{"features": [{"age": 1, "at": "10:00", "age" : 1}]}', "age"),
        ('{"features": [{"a": 1}, {"a\\":": 1, "a\\":": 2}]}', 'a":'),
        ('{"features": [{"age": NaN, "age": 1}]}', "age"),
        ('{"inputs": [{"name": "x", "parameters": {"binary": 1, "binary": 1}}]}', "binary"),
    ],
)
def test_the_key_is_named(content, key):
    with pytest.raises(RequestError) as refused:
        parse_object(content.encode(), "")
    assert str(refused.value) == f"The body has the key {key!r} twice in one object; send each key once."


def test_nested_too_deeply_is_refused():
    with pytest.raises(RequestError):
        parse_object(b'{"a":' * 1020 + b'{"b":1,"b":2}' + b"}" * 1020, "")
    assert parse_object(b'{"a":' * 900 + b"1" + b"}" * 900, "")


@pytest.mark.slow
@example([{"name": "a : b", "at": "2026-01-01T10:00:00"}, {}])
@given(st.lists(st.dictionaries(TEXTS, TEXTS, max_size=4), max_size=20))
def test_rows_without_a_key_twice_are_parsed_once_unless_a_text_has_a_colon_behind_a_quote(rows):
    content = orjson.dumps({"features": rows})
    texts = [text.replace(" ", "") for row in rows for pair in row.items() for text in pair]
    if any('":' in f'"{text}' for text in texts):
        return
    slow = unique_keys.check_unique_keys
    unique_keys.check_unique_keys = lambda content: pytest.fail("parsed twice")
    try:
        assert unique_keys.loads(content) == {"features": rows}
    finally:
        unique_keys.check_unique_keys = slow
