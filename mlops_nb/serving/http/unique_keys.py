"""JSON whose objects have each key once: of two values of one key, readers do not agree which counts."""

import json

import orjson

from mlops_nb.serving.http.errors import RequestError

_SPACE = b" \t\n\r"
_ROWS_DEPTH = 3  # of the body, its lists, and the rows in them
_ANY_DEPTH = 2**31


def loads(content: bytes):
    """Parse JSON; raise a `RequestError` where a key is there twice in one object.

    orjson keeps the last of two values. So the keys of what it returns are counted: there are as many as the text has
    colons, or colons behind a quote (a text may hold other colons, and a quote inside a text is rare), or some are
    lost. Only then is the text parsed again, by the slower parser that sees each key.
    """
    value = orjson.loads(content)
    if not (
        _has_keys(value, content.count(b":"), _ROWS_DEPTH)
        or _has_keys(value, content.translate(None, _SPACE).count(b'":'), _ANY_DEPTH)
    ):
        check_unique_keys(content)
    return value


def _has_keys(value, most: int, depth: int) -> bool:
    """Whether the objects of a value, down to a depth, have at least so many keys; stops as soon as they have."""
    keys, level = 0, [value]
    while level and depth:
        keys += sum([len(one) for one in level if type(one) is dict])
        if keys >= most:
            return True
        if depth := depth - 1:
            below = [one.values() if type(one) is dict else one for one in level if type(one) in _CONTAINERS]
            level = [one for items in below for one in items if type(one) in _CONTAINERS]
    return False


_CONTAINERS = (dict, list)


def check_unique_keys(content: bytes):
    """Raise a `RequestError` that names a key which is twice in one object."""
    try:  # numbers stay texts: a whole number of thousands of digits is slow, or refused
        json.loads(content, object_pairs_hook=_check_pairs, parse_int=str, parse_float=str)
    except RecursionError:
        raise RequestError("The body is not JSON that a request can have: it is nested too deeply.") from None


def _check_pairs(pairs: list[tuple]) -> dict:
    """Return an object; raise a `RequestError` for the first key that is there twice."""
    if len(found := dict(pairs)) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise RequestError(f"The body has the key {twice[:100]!r} twice in one object; send each key once.")
    return found
