"""The peer of the service: the app that a textbook writes, with the same estimator on the same Gunicorn."""

import os
import warnings
from pathlib import Path

import numpy as np
import orjson
import pandas as pd
import skops.io
from flask import Flask, jsonify, request

app = Flask("textbook")
home = Path(os.environ["MLOPS_HOME"])
file = home / "bundle" / "model.skops"
model = skops.io.load(file, trusted=skops.io.get_untrusted_types(file=file))
columns = orjson.loads((home / "columns.json").read_bytes())
is_matrix = columns[0] == "x0"
warnings.simplefilter("ignore")  # an array has no names for its columns


@app.post("/predict")
def predict():
    """Parse, predict, answer."""
    rows = request.get_json()["features"]
    X = np.array(rows) if is_matrix else pd.DataFrame(rows, columns=columns)
    return jsonify({"prediction": model.predict(X).tolist()})
