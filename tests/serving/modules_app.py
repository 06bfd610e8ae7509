"""Helper: a service that lists the modules of the worker that responds."""

import sys

from serve.app import create_app

app = create_app()
app.extensions["keys"].levels["/modules"] = "open"


@app.get("/modules")
def modules():
    return {"modules": sorted(sys.modules)}


app.start()
