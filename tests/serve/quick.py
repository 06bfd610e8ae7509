"""The service; its answers to `POST /predict` name the thread, and one with `X-Fail` meets a defect."""

import threading

from serve.wsgi import app

_answer = app.shortcut


def _answer_and_tell(environ):
    if "HTTP_X_FAIL" in environ:
        raise RuntimeError("as asked")
    content = _answer(environ)
    return content and content[:-1] + b',"thread":"%s"}' % threading.current_thread().name.encode()


app.shortcut = _answer_and_tell
