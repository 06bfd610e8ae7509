"""Helper, no test: a service whose calls take 20 ms whatever the number of rows, and are shared.

A call with a row of `HANGING` takes longer than any request may.
"""

import time

from mlops_nb.model.engine import HybridEngine

HANGING, CALL_SECONDS = 777, 0.02
_predict = HybridEngine.predict


def _predict_slowly(self, table):
    time.sleep(4 if (table[:, 0] == HANGING).any() else CALL_SECONDS)
    return _predict(self, table)


HybridEngine.predict = _predict_slowly

from serve.wsgi import app  # noqa: E402, F401 (its model is timed when it is loaded)
