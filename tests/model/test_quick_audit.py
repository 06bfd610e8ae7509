"""Where the quick audit accepts a model file, skops accepts it; the rest is left to skops."""

import io
import json
import warnings
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils import all_estimators
from skops.io import _audit, _protocol

from mlops_nb.errors import BundleError
from mlops_nb.model import quick_audit
from mlops_nb.model.bundle import audit_types
from mlops_nb.model.quick_audit import has_harmless_types
from mlops_nb.model.trusted_types import write_estimator
from tests.factories import ROOT

X = np.array([[0.0, 1], [1, 0], [2, 2], [3, 1]])
TEXTS = ["a word", "another word", "a third", "none"]
Y = [0, 1, 0, 1]

LINEAR = {
    "logistic regression": LogisticRegression(),
    "linear regression": LinearRegression(),
    "linear SVM": LinearSVC(),
    "imputed and scaled": make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
    "categories": make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()),
    "codes": make_pipeline(OrdinalEncoder(dtype=np.float32), LogisticRegression()),
}
OTHERS = {
    "SGD, whose loss is compiled": SGDClassifier(random_state=0),
    "forest": RandomForestClassifier(2),
    "trees": HistGradientBoostingClassifier(max_iter=2),
    "logarithm": make_pipeline(FunctionTransformer(np.log1p), LogisticRegression()),
    "texts": make_pipeline(TfidfVectorizer(), LogisticRegression()),
}


def accepts(model: Path) -> bool:
    """Whether skops' audit accepts a file."""
    try:
        audit_types(model)
    except BundleError:
        return False
    return True


def written(name: str, folder: Path) -> Path:
    model = {**LINEAR, **OTHERS}[name]
    write_estimator(model.fit(TEXTS if name == "texts" else X, Y), folder / "model.skops")
    return folder / "model.skops"


@pytest.mark.parametrize("name", LINEAR)
def test_file_of_a_linear_model_is_audited_without_skops(name, tmp_path):
    model = written(name, tmp_path)
    assert has_harmless_types(model)
    assert accepts(model)


@pytest.mark.parametrize("name", OTHERS)
def test_quick_audit_accepts_no_file_that_skops_does_not(name, tmp_path):
    model = written(name, tmp_path)
    assert accepts(model) or not has_harmless_types(model)


@pytest.mark.parametrize(
    "model", sorted((ROOT / "tests/data/bundles").glob("*/model.skops")), ids=lambda p: p.parent.name
)
def test_file_of_an_earlier_release_has_the_same_verdict(model):
    assert accepts(model) or not has_harmless_types(model)


@pytest.mark.slow
def test_every_estimator_of_scikit_learn_has_the_same_verdict(tmp_path):
    model, quick = tmp_path / "model.skops", 0
    for _, kind in all_estimators():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                write_estimator(kind(), model)
        except Exception:  # one that needs arguments, or that skops cannot write
            continue
        quick += (is_quick := has_harmless_types(model))
        assert accepts(model) or not is_quick, kind
    assert quick > 100


def test_reader_knows_the_protocol_and_the_loaders_of_the_installed_skops():
    assert quick_audit.PROTOCOL == _protocol.PROTOCOL
    known = {loader for loader, protocol in _audit.NODE_TYPE_MAPPING if protocol == _protocol.PROTOCOL}
    assert {*quick_audit._ACCEPTED, "JsonNode", "SliceNode"} <= known


# hostile files

NAMES = ["Popen", "eval", "Tree", "dict", "list", "ndarray", "float64", "LogisticRegression", "", "a.b", None, 3, ["x"]]
MODULES = ["subprocess", "builtins", "sklearn.tree._tree", "numpy", "sklearn.linear_model._logistic", "", None, 7]
LOADERS = sorted({loader for loader, _ in _audit.NODE_TYPE_MAPPING})
VALUES = [None, {}, [], "text", 3, [3], {"x": 1}, "numpy", "json", "../../etc/passwd", "schema.json", True, 1e400]
MUTATIONS = st.one_of(
    st.tuples(st.just("__loader__"), st.sampled_from([*LOADERS, "NoNode", None, 3])),
    st.tuples(st.just("__module__"), st.sampled_from(MODULES)),
    st.tuples(st.just("__class__"), st.sampled_from(NAMES)),
    st.tuples(st.just("__id__"), st.sampled_from(["known", 0, 1, True, "x", None, [1], {}])),
    st.tuples(st.sampled_from(["content", "file", "type", "shape", "key_types", "protocol"]), st.sampled_from(VALUES)),
    st.tuples(
        st.sampled_from(["content", "key_types", "__class__", "__loader__", "__id__", "file"]), st.just("delete")
    ),
    st.tuples(st.just("wrap"), st.sampled_from([2, 60, 400])),
)


@cache
def entries_of(name: str) -> dict[str, bytes]:
    """The entries of a model file."""
    file = io.BytesIO()
    write_estimator({**LINEAR, **OTHERS}[name].fit(X, Y), file)
    with zipfile.ZipFile(file) as archive:
        return {entry: archive.read(entry) for entry in archive.namelist()}


def nodes_of(schema: dict) -> list[dict]:
    """The nodes of a schema of any depth."""
    found, left = [], [schema]
    while left:
        value = left.pop()
        if isinstance(value, dict) and "__loader__" in value:
            found.append(value)
        left += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return found or [schema]


def mutate(schema: dict, place: int, key: str, value):
    nodes = nodes_of(schema)
    node = nodes[place % len(nodes)]
    if key == "wrap":
        for _ in range(value):
            inner = dict(node)
            node.clear()
            node |= {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode", "content": [inner]}
    elif value == "delete":
        node.pop(key, None)
    else:
        node[key] = nodes[place * 7 % len(nodes)].get("__id__") if value == "known" else value


def dumped(schema: dict) -> bytes:
    """JSON of any depth: `json.dumps` ends at a thousand."""
    try:
        return json.dumps(schema).encode()
    except RecursionError:
        return b"[" * 100_000


@given(
    st.sampled_from(["imputed and scaled", "categories", "forest"]),
    st.lists(st.tuples(st.integers(0, 10_000), MUTATIONS), min_size=1, max_size=3),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_quick_audit_accepts_no_hostile_file_that_skops_refuses(tmp_path, name, mutations):
    entries = dict(entries_of(name))
    schema = json.loads(entries["schema.json"])
    schema["protocol"] = schema.get("protocol", _protocol.PROTOCOL)
    for place, (key, value) in mutations:
        mutate(schema, place, key, value)
    model = tmp_path / "model.skops"
    with zipfile.ZipFile(model, "w") as file:
        for entry, data in (entries | {"schema.json": dumped(schema)}).items():
            file.writestr(entry, data)
    assert accepts(model) or not has_harmless_types(model)


def rewritten(tmp_path, change) -> Path:
    entries = list(entries_of("imputed and scaled").items())
    model = tmp_path / "model.skops"
    with zipfile.ZipFile(model, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an entry that is there twice
        for name, data in change(entries):
            file.writestr(name, data)
    return model


STRANGE = json.dumps({"__class__": "Popen", "__module__": "subprocess", "__loader__": "ObjectNode", "protocol": 2})


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: [*entries, ("schema.json", STRANGE)],
        lambda entries: [("schema.json", STRANGE), *entries],
        lambda entries: [entry for entry in entries if not entry[0].endswith(".npy")],
        lambda entries: [entry for entry in entries if entry[0] != "schema.json"],
        lambda entries: [(n, d[:-1] + b',"protocol":3}' if n == "schema.json" else d) for n, d in entries],
        lambda entries: [(n, d.decode().encode("utf-16") if n == "schema.json" else d) for n, d in entries],
        lambda entries: [(n, b"\xff\xfe" + d if n == "schema.json" else d) for n, d in entries],
    ],
    ids=["strange last", "strange first", "no arrays", "no schema", "protocol twice", "UTF-16", "no text"],
)
def test_quick_audit_of_an_odd_archive_accepts_nothing_that_skops_refuses(tmp_path, change):
    model = rewritten(tmp_path, change)
    assert accepts(model) or not has_harmless_types(model)


def test_array_whose_bytes_were_changed_is_left_to_skops(tmp_path):
    model = rewritten(tmp_path, list)
    with zipfile.ZipFile(model) as file:
        entry = next(e for e in file.infolist() if e.filename.endswith(".npy"))
    content = bytearray(model.read_bytes())
    content[entry.header_offset + 100] ^= 1
    model.write_bytes(content)
    assert not has_harmless_types(model)
    assert not accepts(model)


def test_pickle_is_left_to_skops(tmp_path):
    model = tmp_path / "model.skops"
    for content in (b"", b"PK\x03\x04", b"\x80\x04K\x01.", io.BytesIO(b"\0" * 1000).getvalue()):
        model.write_bytes(content)
        assert not has_harmless_types(model)
