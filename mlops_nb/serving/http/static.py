"""Files for a browser, with headers that let them load nothing from another host."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from flask import Response

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def send_static(path: Path, media_type: str) -> Response:
    """Return a text file of the package as a response."""
    text = path.read_text(encoding="utf-8")
    return Response(text, headers=SECURITY_HEADERS, content_type=f"{media_type}; charset=utf-8")


def allow_frames(sites: Sequence[str]) -> Callable[[Response], Response]:
    """Return a hook that lets pages of other sites show those of the service in a frame."""

    def hook(response: Response) -> Response:
        if policy := response.headers.get("Content-Security-Policy"):
            allowed = re.sub(r"frame-ancestors [^;]+", f"frame-ancestors {' '.join(sites)}", policy)
            response.headers["Content-Security-Policy"] = allowed
        return response

    return hook
