"""Attacks on a bundle: nothing that was changed is loaded, nothing half-written is left."""

import ast
import io
import json
import os
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import LinearSVC

from mlops_nb.errors import BundleError
from mlops_nb.model import bundle as module
from mlops_nb.model.bundle import load_engine, publish_directory, read_manifest, sha256_of, write_bundle
from mlops_nb.model.columns import to_table
from mlops_nb.model.conversion import convert
from mlops_nb.model.engine import SklearnEngine, compare
from mlops_nb.model.predictor import Predictor
from mlops_nb.model.signature import Input, Signature
from tests.factories import package

FACTS = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}, "evaluation": None}


def rehash(path, name):
    """What a careful attacker does: put the new hash into the manifest."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][name] = sha256_of(path / name)
    (path / "manifest.json").write_text(json.dumps(manifest))


def rewrite(model, change):
    """Write a model file anew, with its schema and its arrays as `change` leaves them."""
    with zipfile.ZipFile(model) as file:
        content = {n: file.read(n) for n in file.namelist()}
    schema = json.loads(content["schema.json"])
    change(schema, content)
    with zipfile.ZipFile(model, "w") as file:
        for name, data in (content | {"schema.json": json.dumps(schema)}).items():
            file.writestr(name, data)


@pytest.mark.slow
def test_untouched_bundle_loads(bundle):
    assert load_engine(bundle.path, bundle.digest)[1].name == "onnxruntime"
    assert load_engine(bundle.path, engine="scikit-learn")[1].name == "scikit-learn"


@pytest.mark.slow
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
    (bundle.path / "model_card.md").write_text("Never wrong.")
    rehash(bundle.path, "model_card.md")
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
    strange = {"__class__": "Popen", "__module__": "subprocess", "__loader__": "ObjectNode"}
    rewrite(bundle.path / "model.skops", lambda schema, _: schema.update(strange))
    rehash(bundle.path, "model.skops")
    with pytest.raises(BundleError, match=r"not on the allow-list: subprocess\.Popen"):
        load_engine(bundle.path)


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module that says so when it is imported."""
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'exploded')!r}, 'w')\n\ndef run(*_): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: (tmp_path / "exploded").exists() or "evil_module" in sys.modules
    sys.modules.pop("evil_module", None)


LOADERS = ["ObjectNode", "FunctionNode", "TypeNode", "MethodNode", "OperatorFuncNode", "ConstructorFromReduceNode"]


@pytest.mark.parametrize("engine", ["onnxruntime", "scikit-learn"])
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("where", ["C", "coef_", "classes_"])
def test_type_outside_the_allow_list_is_refused_before_its_module_is_imported(bundle, engine, loader, where, evil):
    def change(schema, _):
        inner = {
            "__class__": "dict",
            "__module__": "builtins",
            "__loader__": "DictNode",
            "content": {},
            "key_types": {},
        }
        content = {"module_path": "evil_module", "function": "run", "func": "run", "obj": inner}
        node = {"__class__": "run", "__module__": "evil_module", "__loader__": loader, "content": content, "__id__": 1}
        schema["content"]["content"][where] = node

    rewrite(bundle.path / "model.skops", change)
    rehash(bundle.path, "model.skops")
    with pytest.raises(BundleError, match=r"not on the allow-list: .*(evil_module|run)|is not a model file"):
        load_engine(bundle.path, engine=engine)
    assert not evil()


def test_pickle_inside_an_array_of_the_model_is_refused_and_not_run(bundle, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    def change(_, content):
        array = io.BytesIO()
        np.save(array, np.array([Bomb()], dtype=object), allow_pickle=True)
        for name in content:
            if name.endswith(".npy"):
                content[name] = array.getvalue()

    rewrite(bundle.path / "model.skops", change)
    rehash(bundle.path, "model.skops")
    with pytest.raises(BundleError, match=r"model\.skops cannot be loaded: ValueError"):
        load_engine(bundle.path, engine="scikit-learn")
    assert not (tmp_path / "exploded").exists()


def test_loading_and_answering_use_no_pickle(bundle, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a pickle is loaded")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr("joblib.load", refuse)
    for engine in ("onnxruntime", "scikit-learn"):
        predictor = Predictor.load(bundle.path, engine=engine)
        assert predictor.predict_rows([[1, 0]]).prediction.tolist() == [1]
        predictor.close()


@pytest.mark.slow
def test_nothing_of_ours_names_a_library_that_loads_pickles():
    folder, named = Path(module.__file__).parents[1], set()
    for file in [*folder.rglob("*.py"), *(folder.parent / "serve").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                named |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                named.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Attribute | ast.keyword):
                named.add(node.attr if isinstance(node, ast.Attribute) else node.arg)
    assert {"skops", "numpy", "read_bytes"} <= named
    forbidden = {"pickle", "cPickle", "_pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal", "read_pickle"}
    # of joblib `orchestration.dask` takes the way to a cluster, and test_library holds that nobody else imports it
    assert named & (forbidden | {"allow_pickle"}) == {"joblib"}
    dask = (folder / "orchestration" / "dask.py").read_text()
    assert not any(a in dask for a in ("joblib.load", "joblib.dump", "from joblib"))


@pytest.mark.parametrize("how", ["format", "hash", "digest", "stray", "missing", "outside", "link"])
@pytest.mark.parametrize("engine", ["onnxruntime", "scikit-learn"])
def test_what_is_wrong_outside_is_refused_before_the_inside_is_opened(bundle, how, engine, monkeypatch, tmp_path):
    path, digest, manifest = bundle.path, None, json.loads((bundle.path / "manifest.json").read_text())
    if how == "format":
        manifest["format"] = 3
    elif how == "hash":
        (path / "model.skops").write_bytes((path / "model.skops").read_bytes() + b" ")
    elif how == "digest":
        digest = "0" * 64
    elif how == "stray":
        (path / "extra.pkl").write_bytes(b"")
    elif how == "missing":
        (path / "golden.json").unlink()
    elif how == "outside":
        (tmp_path / "outside").write_bytes(b"x")
        manifest["files"]["../outside"] = sha256_of(tmp_path / "outside")
    else:
        (path / "model.onnx").rename(tmp_path / "model.onnx")
        (path / "model.onnx").symlink_to(tmp_path / "model.onnx")
    (path / "manifest.json").write_text(json.dumps(manifest))

    def refuse(*_, **__):
        raise AssertionError("the inside was opened")

    for name in ("skops.io.get_untrusted_types", "skops.io.load", "onnxruntime.InferenceSession"):
        monkeypatch.setattr(name, refuse)
    message = {
        "format": "Bundle toy has format 3; this version reads 1 and 2. Build it again",
        "hash": r"model\.skops of toy was changed after it was packaged",
        "digest": r"manifest\.json of toy is not the one that was registered",
        "stray": r"extra\.pkl of toy is not in its manifest",
        "missing": r"golden\.json of toy is missing",
        "outside": r"\.\./outside of toy leaves the folder of the bundle",
        "link": r"model\.onnx of toy leaves the folder of the bundle",
    }
    with pytest.raises(BundleError, match=message[how]):
        load_engine(path, digest, engine=engine)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", ".", "", "\x00", "x" * 5000])
def test_file_of_the_manifest_that_is_none_of_the_folder_is_refused(bundle, name):
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["files"][name] = "0" * 64
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"leaves the folder of the bundle|is missing"):
        load_engine(bundle.path)


@pytest.mark.parametrize("location", ["/etc/hostname", "../outside", "inside"])
def test_graph_whose_weights_are_in_a_file_of_their_own_is_refused(bundle, location, tmp_path, monkeypatch):
    import onnx

    monkeypatch.chdir(bundle.path)
    for file in (tmp_path / "outside", bundle.path / "inside"):
        np.zeros(100).tofile(file)
    graph = onnx.load(bundle.path / "model.onnx")
    assert graph.graph.node[0].input[0] == "features"
    tensor = graph.graph.initializer.add(name="w", data_type=11, dims=[1, 2], data_location=1)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    graph.graph.node.insert(0, onnx.helper.make_node("Add", ["features", "w"], ["moved"]))
    graph.graph.node[1].input[0] = "moved"
    (bundle.path / "inside").unlink() if location != "inside" else None
    (bundle.path / "model.onnx").write_bytes(graph.SerializeToString())
    for name in ("model.onnx", *(["inside"] if location == "inside" else [])):
        rehash(bundle.path, name)
    with pytest.raises(BundleError, match="The model of toy cannot be loaded by onnxruntime"):
        load_engine(bundle.path)


UNREADABLE = ["", "[]", "null", '{"format": 3}', '{"format": true}', '{"format": "1"}', "{"]
UNREADABLE += ["\ud800".encode("utf-8", "replace")]


@pytest.mark.parametrize("manifest", UNREADABLE)
def test_manifest_that_is_none_is_refused(bundle, manifest):
    (bundle.path / "manifest.json").write_bytes(manifest if isinstance(manifest, bytes) else manifest.encode())
    with pytest.raises(BundleError, match=r"manifest\.json of bundle toy cannot be read|has format"):
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


NO_LIMIT = {"numbers": {"a": [1]}, "texts": {}, "known": {}, "missing": []}
NO_CLASS = {"numbers": {}, "texts": {"a": "odd"}, "known": {}, "missing": []}


@pytest.mark.parametrize("parity", [[], 3, {}, {"domain": None}, {"domain": NO_LIMIT}, {"domain": NO_CLASS}])
def test_parity_with_nonsense_in_it_is_refused(bundle, parity):
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["parity"] = parity
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    if parity:
        with pytest.raises(BundleError, match=r"The parity of bundle toy cannot be read.*Build it again"):
            load_engine(bundle.path)
    else:
        assert load_engine(bundle.path)[1].name == "scikit-learn"


def test_graph_of_a_bundle_without_a_verified_domain_is_not_served(bundle):
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    assert manifest["parity"]["probes"] >= 20_000
    del manifest["parity"]
    (bundle.path / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    loaded, engine = load_engine(bundle.path)
    assert engine.name == loaded.engine == "scikit-learn"


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


@pytest.mark.slow
def test_crash_in_the_middle_leaves_nothing_and_the_old_bundle_untouched(bundle, monkeypatch):
    before = bundle.digest

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mlops_nb.model.profile.make_profile", crash)
    with pytest.raises(KeyboardInterrupt):
        package(bundle.path, 5.0)
    monkeypatch.undo()
    assert [p.name for p in bundle.path.parent.iterdir()] == ["toy"]
    assert load_engine(bundle.path)[0].digest == before


@pytest.mark.slow
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


@pytest.mark.slow
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
    served = engine.predict(table)
    assert compare(SklearnEngine(fitted, signature).predict(table), served)[0] is None
    assert (served.probability is not None) == probability, "a score is not a probability"
    engine.close()


@pytest.mark.parametrize("is_there", [False, True])
def test_bundle_is_on_disk_before_it_appears_and_its_name_after(bundle, tmp_path, monkeypatch, is_there):
    forced, force, place = [], os.fsync, tmp_path / "1"
    place.mkdir() if is_there else None

    def watched(descriptor):
        forced.append((Path(f"/proc/self/fd/{descriptor}").readlink(), bundle.path.exists()))
        force(descriptor)

    monkeypatch.setattr(module.os, "fsync", watched)
    names = [bundle.path / name for name in (*bundle.manifest["files"], "manifest.json")]
    publish_directory(bundle.path, place)
    assert forced[-2:] == [(bundle.path, True), (tmp_path, False)]
    assert sorted(forced[:-2]) == sorted((name, True) for name in names)
    assert read_manifest(place).manifest == bundle.manifest


@pytest.mark.slow
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
    assert conversion.onnx is None
    assert "a tree splits on missing values" in conversion.reason


CITIES = pd.DataFrame({"city": RNG.choice([f"c{i}" for i in range(25)], 300), "a": NUMBERS["a"]})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "texts"),
    [
        (OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=2), {"city": "known"}),
        (OneHotEncoder(handle_unknown="ignore", min_frequency=2), {}),
        (OneHotEncoder(handle_unknown="error"), {"city": "known"}),
    ],
)
def test_word_that_the_graph_does_not_know_is_left_to_scikit_learn(encoder, texts):
    columns = make_column_transformer((encoder, ["city"]), remainder="passthrough")
    fitted = make_pipeline(columns, LogisticRegression()).fit(CITIES, BINARY)
    signature = Signature((Input("city", "string"), Input("a")), "classification", "y", (0, 1))
    conversion = convert(fitted, signature, to_table(signature, CITIES))
    assert conversion.onnx, conversion.reason
    assert conversion.domain.texts == texts


@pytest.mark.slow
def test_missing_value_that_the_graph_does_not_know_is_left_to_scikit_learn():
    trained = CITIES.assign(city=CITIES["city"].where(RNG.random(300) < 0.5))
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = make_column_transformer((encoder, ["city"]), remainder="passthrough")
    fitted = make_pipeline(columns, HistGradientBoostingClassifier()).fit(trained, trained["city"].isna())
    signature = Signature((Input("city", "string", required=False), Input("a")), "classification", "y", (False, True))
    conversion = convert(fitted, signature, to_table(signature, trained.dropna()))
    assert conversion.onnx, conversion.reason
    assert conversion.domain.missing == ("city",)


@pytest.mark.slow
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
