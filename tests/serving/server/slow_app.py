"""Helper, no test: a service whose model takes as long as a row of `SLOW` and a number of seconds says."""

import time

from mlops_nb.model.predictor import Predictor
from serve.wsgi import app

SLOW = 777
_parse = Predictor.parse


def _parse_slowly(self, rows):
    if isinstance(rows, list) and rows and isinstance(rows[0], list) and rows[0][0] == SLOW:
        time.sleep(rows[0][1])
    return _parse(self, rows)


Predictor.parse = _parse_slowly
app.runs_inline = lambda request: False  # as of a model that is known to be slow
