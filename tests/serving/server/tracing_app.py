"""Helper: a service whose responses to `POST /predict` name their thread and way, and which fails at `X-Fail`."""

import threading

from serve.wsgi import app

_respond, _fast_response = app._fast_path.respond, app.fast_response


def _respond_and_tell(environ):
    if "HTTP_X_FAIL" in environ:
        raise RuntimeError("as asked")
    content = _respond(environ)
    return content and content[:-1] + b',"thread":"%s"}' % threading.current_thread().name.encode()


def _fast_response_and_tell(environ):
    response = _fast_response(environ)
    return response and ([*response[0], ("X-Fast", "1")], response[1])


app._fast_path.respond, app.fast_response = _respond_and_tell, _fast_response_and_tell
