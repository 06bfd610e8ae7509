"""The peer of the service: a Flask route that does nothing, on the same Gunicorn."""

from flask import Flask, Response

app = Flask("noop")


@app.post("/predict")
def noop() -> Response:
    return Response(b'{"prediction":[1]}', content_type="application/json")
