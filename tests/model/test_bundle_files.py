"""Damage to the files of a bundle: it is refused in one sentence, or loads and predicts the same."""

import copy
import io
import json
import random
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mlops_nb.errors import BundleError
from mlops_nb.model import bundle_files
from mlops_nb.model.bundle import audit_types
from mlops_nb.model.predictor import Predictor
from tests.factories import SIGNATURE, package
from tests.model.test_bundle import rehash

FILES = ("manifest.json", "golden.json", "profile.json")
ROWS = [[30, 2500.0, "own"], [61, None, "rent"], [40, 3100.5, "rent"]]
VALUES = [None, True, 0, -1, 3.5, 10**400, 2**63, 1e308, float("nan"), [], [[]], [None], {}, {"a": 1}]
VALUES += ["", "x", "1", "\ud800", "\0"]
TEXTS = [b"", b"{", b"[", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"NaN"]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return package(tmp_path_factory.mktemp("bundle") / "toy", 1.0, SIGNATURE)


@pytest.fixture(scope="module")
def expected(original):
    return predict(original.path)


def predict(path: Path) -> tuple:
    predictor = Predictor.load(path)
    predictions = predictor.predict_rows(ROWS)
    predictor.close()
    return predictions.prediction.tolist(), np.round(predictions.probability, 9).tolist(), list(predictions.classes)


def outcome(path: Path) -> tuple[str | None, tuple | None]:
    """Return why a bundle is refused, or its predictions."""
    try:
        return None, predict(path)
    except BundleError as e:
        return str(e), None


def places(value, path=()):
    """Yield the place of each value inside a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def mutate(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Return what was done to a file of JSON, and the result."""
    how = rng.choice(["delete", "replace", "replace", "nest", "swap", "twice", "add", "cut", "text"])
    if how in ("cut", "text"):
        return how, content[: rng.randrange(len(content))] if how == "cut" else rng.choice(TEXTS)
    value = json.loads(content)
    every = list(places(value))
    # a place near the root as likely as one of the thousands deep inside
    depth = rng.choice(sorted({len(place) for place in every}))
    *path, key = rng.choice([place for place in every if len(place) == depth])
    parent = value
    for step in path:
        parent = parent[step]
    if how == "delete":
        del parent[key]
    elif how == "nest":
        parent[key] = [parent[key]]
    elif how == "swap":
        other = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        parent[key] = copy.deepcopy(parent[other])
    elif how == "add" and isinstance(parent, dict):
        parent["added"] = rng.choice(VALUES)
    elif how == "twice":
        text, name = json.dumps(value), json.dumps(key)
        return f"twice {path} {key}", text.replace(f"{name}:", f"{name}: 1, {name}:", 1).encode()
    else:
        parent[key] = rng.choice(VALUES)
    return f"{how} {path} {key}: {parent}"[:300], json.dumps(value).encode()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_mutated_file_is_refused_in_one_sentence_or_predicts_the_same(original, expected, tmp_path, seed):
    rng = random.Random(seed)
    for number in range(30):
        name, path = FILES[number % len(FILES)], tmp_path / str(number) / "toy"
        shutil.copytree(original.path, path)
        how, content = mutate((path / name).read_bytes(), rng)
        (path / name).write_bytes(content)
        if name != "manifest.json":
            rehash(path, name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            problem, found = outcome(path)
        fits = found == expected if problem is None else "\n" not in problem and len(problem) < 1000
        assert fits, (name, how, problem)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("manifest.json", lambda m: m["signature"]["inputs"][0].pop("name"), r"'signature\.inputs\[0\]\.name' is miss"),
        ("manifest.json", lambda m: m["signature"].update(classes=["yes", "no"]), "other classes than its model"),
        ("manifest.json", lambda m: m.update(evaluation="good"), "'evaluation' must be an object or null, got a text"),
        ("golden.json", lambda g: g["prediction"].pop(), "golden rows of toy and their predictions differ in number"),
        ("golden.json", lambda g: g.pop("probability"), r"golden\.json of bundle toy .*'probability' is missing"),
        ("profile.json", lambda p: p["inputs"]["home"].update(counts=3), r"'inputs\.home\.counts' must be an object"),
    ],
)
def test_message_names_the_place(original, tmp_path, name, change, message):
    path = shutil.copytree(original.path, tmp_path / "toy")
    content = json.loads((path / name).read_text())
    change(content)
    (path / name).write_text(json.dumps(content))
    if name != "manifest.json":
        rehash(path, name)
    with pytest.raises(BundleError, match=message):
        Predictor.load(path)


def test_key_that_is_there_twice_is_refused(original, tmp_path):
    path = shutil.copytree(original.path, tmp_path / "toy")
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"name"', '"name": "other", "name"', 1))
    with pytest.raises(BundleError, match="a key is there twice"):
        Predictor.load(path)


def bomb(path: Path, nested: bool) -> Path:
    content = bytes(200 * 2**20)
    if nested:
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data.npy", content)
        content = inner.getvalue()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", "{}")
        archive.writestr("1.npz", content)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("nested", [False, True])
def test_model_file_that_would_become_far_larger_is_refused_before_it_is_unpacked(tmp_path, nested, monkeypatch):
    model = bomb(tmp_path / "model.skops", nested)
    assert model.stat().st_size < 2**20

    def refuse(*_, **__):
        raise AssertionError("the inside was read")

    monkeypatch.setattr("skops.io.get_untrusted_types", refuse)
    with pytest.raises(BundleError, match=r"model\.skops would have 20\d MiB unpacked; a file of its size may have 64"):
        audit_types(model)


def test_compressed_model_file_loads(original, tmp_path):
    path = shutil.copytree(original.path, tmp_path / "toy")
    with zipfile.ZipFile(path / "model.skops") as file:
        content = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path / "model.skops", "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in content.items():
            file.writestr(name, data)
    rehash(path, "model.skops")
    Predictor.load(path).close()


def test_every_schema_takes_what_is_written(original):
    assert bundle_files.find_problem(original.manifest, bundle_files.MANIFEST) is None
    assert original.golden()["prediction"]
    assert original.profile()["inputs"].keys() == {"age", "income", "home"}
