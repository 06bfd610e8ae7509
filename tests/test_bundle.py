"""Attacks on a bundle: nothing that was changed is loaded, nothing half-written is left."""

import json
import pickle
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from mlops_nb import bundle as module
from mlops_nb.bundle import load_engine, read_manifest, sha256_of, write_bundle
from mlops_nb.engine import SklearnEngine, compare, convert
from mlops_nb.errors import BundleError
from mlops_nb.signature import Input, Signature, to_table
from tests.serve.conftest import package

FACTS = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}, "evaluation": None}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return package(tmp_path_factory.mktemp("bundle") / "toy", 1.0)


@pytest.fixture
def bundle(original, tmp_path):
    shutil.copytree(original.path, tmp_path / "toy")
    return read_manifest(tmp_path / "toy")


def rehash(path, name):
    """What a careful attacker does: put the new hash into the manifest."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][name] = sha256_of(path / name)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_untouched_bundle_loads(bundle):
    assert load_engine(bundle.path, bundle.digest)[1].name == "onnxruntime"
    assert load_engine(bundle.path, engine="scikit-learn")[1].name == "scikit-learn"


@pytest.mark.parametrize("name", ["model.skops", "model.onnx", "profile.json", "golden.json", "model_card.md"])
@pytest.mark.parametrize("how", ["changed", "is missing"])
def test_file_that_was_touched_is_refused(bundle, name, how):
    if how == "changed":
        (bundle.path / name).write_bytes((bundle.path / name).read_bytes() + b" ")
    else:
        (bundle.path / name).unlink()
    with pytest.raises(BundleError, match=f"{name} of toy .*{how}"):
        load_engine(bundle.path)


def test_file_and_manifest_replaced_together_are_refused_by_the_registered_digest(bundle, tmp_path):
    digest = bundle.digest
    shutil.copy(package(tmp_path / "other", 9.0).path / "model.skops", bundle.path)
    rehash(bundle.path, "model.skops")
    load_engine(bundle.path)  # without the registry nobody can know
    with pytest.raises(BundleError, match=r"manifest\.json of toy is not the one that was registered"):
        load_engine(bundle.path, digest)


@pytest.mark.parametrize("engine", ["onnxruntime", "scikit-learn"])
def test_pickle_in_the_place_of_the_model_is_refused_and_not_run(bundle, engine, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    (bundle.path / "model.skops").write_bytes(pickle.dumps(Bomb()))
    rehash(bundle.path, "model.skops")
    with pytest.raises(BundleError, match=r"model\.skops is not a model file"):
        load_engine(bundle.path, engine=engine)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x00" * 1000])
def test_broken_model_file_is_refused(bundle, content):
    (bundle.path / "model.skops").write_bytes(content)
    rehash(bundle.path, "model.skops")
    with pytest.raises(BundleError, match="is not a model file"):
        load_engine(bundle.path, engine="scikit-learn")


def test_model_file_that_names_a_strange_type_is_refused_before_anything_is_constructed(bundle):
    model = bundle.path / "model.skops"
    with zipfile.ZipFile(model) as file:
        content = {n: file.read(n) for n in file.namelist()}
    schema = json.loads(content["schema.json"])
    schema |= {"__class__": "Popen", "__module__": "subprocess", "__loader__": "ObjectNode"}
    with zipfile.ZipFile(model, "w") as file:
        for name, data in (content | {"schema.json": json.dumps(schema)}).items():
            file.writestr(name, data)
    rehash(bundle.path, "model.skops")
    with pytest.raises(BundleError, match=r"not on the allow-list: subprocess\.Popen"):
        load_engine(bundle.path)


@pytest.mark.parametrize(
    "manifest", ["", "[]", "null", '{"format": 2}', '{"format": "1"}', "{", "\ud800".encode("utf-8", "replace")]
)
def test_manifest_that_is_none_is_refused(bundle, manifest):
    (bundle.path / "manifest.json").write_bytes(manifest if isinstance(manifest, bytes) else manifest.encode())
    with pytest.raises(BundleError, match=r"manifest of bundle toy cannot be read|has format"):
        load_engine(bundle.path)


@pytest.mark.parametrize("key", ["name", "signature", "engine", "identity", "files"])
@pytest.mark.parametrize("value", [None, {}, 3])
def test_manifest_without_a_field_or_with_nonsense_in_it_is_refused(bundle, key, value):
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    if value is None:
        del manifest[key]
    else:
        manifest[key] = value
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"Build it again|is not in its manifest"):
        load_engine(bundle.path)


def test_missing_bundle_is_one_sentence(tmp_path):
    with pytest.raises(BundleError, match="There is no bundle at nowhere"):
        load_engine(tmp_path / "nowhere")


def test_model_that_does_not_reproduce_its_golden_rows_is_refused(bundle):
    golden = json.loads((bundle.path / "golden.json").read_text())
    golden["prediction"][0] = 1 - golden["prediction"][0]
    (bundle.path / "golden.json").write_text(json.dumps(golden))
    rehash(bundle.path, "golden.json")
    with pytest.raises(BundleError, match="does not reproduce its golden rows: 1 of 20 labels differ"):
        load_engine(bundle.path)


def test_crash_in_the_middle_leaves_nothing_and_the_old_bundle_untouched(bundle, monkeypatch):
    before = bundle.digest

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "make_profile", crash)
    with pytest.raises(KeyboardInterrupt):
        package(bundle.path, 5.0)
    monkeypatch.undo()
    assert [p.name for p in bundle.path.parent.iterdir()] == ["toy"]
    assert load_engine(bundle.path)[0].digest == before


def test_writing_again_replaces_the_whole_bundle(bundle):
    (bundle.path / "stray").touch()
    package(bundle.path, 5.0)
    assert load_engine(bundle.path)[0].manifest["params"] == {"C": 5.0}
    assert [p.name for p in bundle.path.parent.iterdir()] == ["toy"]


# Engines: what converts, agrees

RNG = np.random.default_rng(0)
NUMBERS = pd.DataFrame(RNG.normal(size=(300, 3)), columns=["a", "b", "c"])
BINARY = (NUMBERS["a"] + NUMBERS["b"] > 0).astype(int)
THREE = pd.cut(NUMBERS["a"], [-9, -0.5, 0.5, 9], labels=["low", "mid", "high"]).astype(str)


@pytest.mark.parametrize("labels", [BINARY, THREE, BINARY.astype(bool)], ids=["int", "str", "bool"])
@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        make_pipeline(StandardScaler(), LogisticRegression()),
        RandomForestClassifier(20, random_state=0),
        GradientBoostingClassifier(n_estimators=10, random_state=0),
        HistGradientBoostingClassifier(max_iter=10, random_state=0),
        KNeighborsClassifier(3),
        LinearSVC(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_bundle_answers_as_the_estimator_whatever_the_engine(estimator, labels, tmp_path):
    fitted = estimator.fit(NUMBERS[:200], labels[:200])
    classes, probability = tuple(fitted.classes_.tolist()), hasattr(fitted, "predict_proba")
    signature = Signature(tuple(map(Input, "abc")), "classification", "y", classes, probability)
    write_bundle(tmp_path / "b", "b", fitted, signature, NUMBERS[200:], NUMBERS, FACTS)
    _, engine = load_engine(tmp_path / "b")
    table = to_table(signature, NUMBERS[200:])
    said = engine.answer(table)
    assert compare(SklearnEngine(fitted, signature).answer(table), said)[0] is None
    assert (said.probability is not None) == probability, "a score is not a probability"
    engine.close()


@pytest.mark.parametrize(
    "estimator", [LinearRegression(), make_pipeline(StandardScaler(), Ridge())], ids=["plain", "pipeline"]
)
def test_regression_is_served_by_onnx(estimator, tmp_path):
    fitted = estimator.fit(NUMBERS, NUMBERS["a"] * 1000 + NUMBERS["b"])
    signature = Signature(tuple(map(Input, "abc")), "regression", "y")
    bundle = write_bundle(tmp_path / "b", "b", fitted, signature, NUMBERS, NUMBERS, FACTS)
    assert bundle.manifest["engine"] == "onnxruntime", bundle.manifest["onnx"]
    load_engine(tmp_path / "b")[1].close()


def test_forest_that_splits_on_missing_values_is_served_by_scikit_learn(tmp_path):
    frame = NUMBERS.mask(RNG.random(NUMBERS.shape) < 0.2)
    fitted = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)).fit(frame, frame["a"].isna())
    inputs = tuple(Input(name, required=False) for name in "abc")
    signature = Signature(inputs, "classification", "y", (False, True))
    conversion = convert(fitted, signature, to_table(signature, frame))
    assert conversion.onnx is None and "a tree asks whether a value is missing" in conversion.reason


def test_mixed_columns_with_missing_values_are_served_as_trained(tmp_path):
    frame = NUMBERS[["a"]].assign(n=RNG.integers(0, 5, 300), home=RNG.choice(["own", "rent", "boat"], 300))
    frame.loc[::5, "a"] = np.nan
    columns = make_column_transformer((SimpleImputer(), ["a", "n"]), (OneHotEncoder(handle_unknown="ignore"), ["home"]))
    fitted = make_pipeline(columns, LogisticRegression()).fit(frame, BINARY)
    inputs = (Input("a", required=False), Input("n", "int"), Input("home", "string"))
    signature = Signature(inputs, "classification", "y", (0, 1))
    bundle = write_bundle(tmp_path / "b", "b", fitted, signature, frame, frame, FACTS)
    assert bundle.manifest["engine"] == "onnxruntime", bundle.manifest["onnx"]
    load_engine(tmp_path / "b")[1].close()
