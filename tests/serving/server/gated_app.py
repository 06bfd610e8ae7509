"""Helper, no test: a service whose model is loaded only while there is no file `closed` in the folder `GATE`.

Its route `/code` responds with the release of the code and the id of the worker. A file named like the id of a worker
shows that the worker has begun to serve.
"""

import os
import time
from functools import partial
from pathlib import Path

from mlops_nb.model.predictor import Predictor
from mlops_nb.serving.http.errors import to_json
from mlops_nb.serving.service import live_model
from serve.app import create_app

GATE = Path(os.environ["GATE"])
RELEASE = (GATE / "release").read_text()
if RELEASE == "broken":
    raise ImportError("this release cannot be imported")
_load = Predictor.load


def _load_later(*args, **kwargs):
    while (GATE / "closed").exists():
        time.sleep(0.01)
    return _load(*args, **kwargs)


Predictor.load = _load_later
app = create_app()
app.add_url_rule("/code", view_func=lambda: to_json({"release": RELEASE, "worker": os.getpid()}))
app.extensions["keys"].levels["/code"] = "open"
live_model(app).start = partial(live_model(app).start, 0.5)  # as if the model took longer than a worker waits for it
app.start()
(GATE / str(os.getpid())).touch()
