"""The service; it tells the thread and the way of an answer to `POST /predict`, and meets a defect at `X-Fail`."""

import threading

from serve.wsgi import app

_answer, _handle_cached_head = app._fast_path.respond, app.fast_response


def _answer_and_tell(environ):
    if "HTTP_X_FAIL" in environ:
        raise RuntimeError("as asked")
    content = _answer(environ)
    return content and content[:-1] + b',"thread":"%s"}' % threading.current_thread().name.encode()


def _answer_known_and_tell(environ):
    answer = _handle_cached_head(environ)
    return answer and ([*answer[0], ("X-Known", "1")], answer[1])


app._fast_path.respond, app.fast_response = _answer_and_tell, _answer_known_and_tell
