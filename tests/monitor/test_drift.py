"""Drift: rates of detection and of false alarms, and results for odd columns."""

import json
import re

import hypothesis
import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st

from mlops_nb.model.profile import make_profile, profile_numbers, profile_texts, profile_values, to_days
from mlops_nb.model.signature import Input, Predictions, Signature
from mlops_nb.model.statistics import distinct_values_test, one_value_p_value
from mlops_nb.monitor.checks import check_drift
from mlops_nb.monitor.drift import measure_drift
from mlops_nb.monitor.drift_report import DriftReport

hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None, max_examples=100)
hypothesis.settings.load_profile("same")

ROWS, REFERENCE = 1000, 5000


def draw(rng, n, shift=0.0, tenth=0.1):
    """Twenty columns of all kinds: smooth, skewed, counts, flags, with missing values, few and many categories."""
    columns = {f"normal{i}": rng.normal(shift if i == 0 else 0, 1, n) for i in range(10)}
    columns |= {f"skewed{i}": rng.lognormal(size=n) for i in range(2)}
    columns |= {"count": rng.poisson(1, n).astype(float), "flag": (rng.random(n) < 0.3).astype(float)}
    columns |= {"some": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)), "wide": rng.poisson(40, n) * 1.0}
    columns["two"] = rng.choice(["a", "b"], n, p=[tenth, 1 - tenth])
    columns["five"] = rng.choice(list("abcde"), n, p=[tenth, 0.5 - tenth, 0.3, 0.15, 0.05])
    columns["postcode"] = np.char.add("z", rng.integers(0, 1000, n).astype(str))
    columns["rare"] = np.minimum(rng.zipf(2, n), 1000).astype(str)
    return pd.DataFrame(columns)


def profile_of(frame):
    return {
        "inputs": {
            c: (profile_numbers if frame[c].dtype == float else profile_values)(frame[c].to_numpy()) for c in frame
        }
    }


def reports(seed, windows=1000, references=20, rows=REFERENCE, **change):
    """Windows against references, both drawn anew."""
    rng = np.random.default_rng(seed)
    for _ in range(references):
        profile = profile_of(draw(rng, rows))
        for _ in range(windows // references):
            yield measure_drift(profile, draw(rng, ROWS, **change))


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize(("seed", "rows"), [pytest.param(0, REFERENCE, marks=pytest.mark.nightly), (1, ROWS)])
def test_of_1000_windows_without_drift_at_most_1_percent_raise_an_alarm(seed, rows):
    verdicts = [report.drifted for report in reports(seed, rows=rows)]
    assert sum(v is True for v in verdicts) <= 10


@pytest.mark.slow
def test_a_thousand_rows_are_enough_for_a_result_of_every_column():
    assert all(c.drifted is not None for report in reports(8, 100) for c in report.columns)


@pytest.mark.slow
@pytest.mark.soak
def test_half_a_standard_deviation_in_one_column_is_found_in_99_percent():
    assert sum("normal0" in [c.name for c in r.drifting] for r in reports(2, shift=0.5)) >= 990


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("column", [pytest.param("two", marks=pytest.mark.nightly), "five"])
def test_a_share_that_moves_from_10_to_20_percent_is_found_in_99_percent(column):
    assert sum(column in [c.name for c in r.drifting] for r in reports(3, tenth=0.2)) >= 990


def words(rng, n, vocabulary, length=8):
    return pd.Series([" ".join(row) for row in rng.choice(vocabulary, (n, length))])


@pytest.mark.slow
def test_texts_with_new_words_drift_and_texts_of_the_same_words_do_not():
    rng = np.random.default_rng(5)
    many = [f"w{i:04}" for i in range(3000)]  # most words of the reference are rare, so unseen words are usual
    profile = {"inputs": {"text": profile_texts(words(rng, 1000, many))}}
    alarms = sum(measure_drift(profile, words(rng, 500, many).to_frame("text")).drifted is True for _ in range(60))
    assert alarms <= 2
    new = words(rng, 500, many + [f"v{i:04}" for i in range(1500)]).to_frame("text")
    (column,) = measure_drift(profile, new).columns
    assert column.drifted
    assert column.part == "unseen words"
    (column,) = measure_drift(profile, words(rng, 500, many, length=12).to_frame("text")).columns
    assert column.drifted
    assert column.statistics["length psi"] > 5


@pytest.mark.parametrize("made", ["text", "name", "number", "day"])
def test_window_of_joined_tables_is_measured_like_one_table(made):
    rng = np.random.default_rng(3)
    columns = {"text": words(rng, 400, [f"w{i:03}" for i in range(200)]), "name": rng.choice(list("abc"), 400)}
    columns |= {"number": rng.normal(size=400), "day": pd.date_range("2026-01-01", periods=400).to_numpy()}
    whole = pd.DataFrame({"x": columns[made]})
    whole = whole.astype("str") if made in ("text", "name") else whole
    profiled = {"text": profile_texts, "name": profile_values, "number": profile_numbers}.get(made)
    values = whole["x"].to_numpy()
    profile = profiled(values) if profiled else profile_numbers(to_days(whole["x"])) | {"unit": "days"}
    joined = pd.concat([whole.iloc[:150], whole.iloc[150:]])
    found, expected = (measure_drift({"inputs": {"x": profile}}, frame).to_dict() for frame in (joined, whole))
    assert found == expected


def test_a_vocabulary_has_at_most_a_thousand_words_and_those_of_most_texts():
    texts = [f"usual w{i % 1500}" for i in range(6000)] + [f"frequent v{i % 900}" for i in range(18_000)]
    known = profile_texts(np.array(texts, dtype=object))["words"]
    assert {"usual", "frequent"} < set(known)
    assert len(known) == 1000
    assert sum(word.startswith("v") for word in known) > 850


# Odd columns


def one(reference, window, **kind):
    """The result of one input column."""
    signature = Signature((Input("x", **kind),), "regression", "y")
    profile = json.loads(
        json.dumps(
            make_profile(signature, pd.DataFrame({"x": reference}), Predictions(np.arange(9.0))), allow_nan=False
        )
    )
    report = measure_drift(profile, pd.DataFrame({"x": window}))
    assert DriftReport.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False))) == report
    return report.columns[0]


NORMAL = np.random.default_rng(6).normal(size=2000)
NOTHING = np.full(500, np.nan)
DAYS = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(2000) % 365, "D")
FAR = pd.Timestamp("9999-12-31")
HOMES = np.random.default_rng(7).choice(["own", "rent"], 2000).astype(object)
FLAGS = np.arange(2000) % 3 == 0


@pytest.mark.parametrize(
    ("reference", "window", "kind", "drifted", "reason"),
    [
        (NORMAL, NORMAL[:500], {}, False, "no more than chance"),
        (NORMAL, NORMAL[:0], {}, None, "not enough rows: the window is empty"),
        (NORMAL, NORMAL[:20], {}, None, "not enough rows: 20 with a value"),
        (NORMAL[:30], NORMAL[:500], {}, None, "not enough rows: the reference has 30"),
        (NORMAL, NOTHING, {"required": False}, True, "100.0% of the values are missing, 0.0%"),
        (NOTHING, NORMAL[:500], {"required": False}, True, "0.0% of the values are missing, 100.0%"),
        (NOTHING, NOTHING, {"required": False}, False, "no more than chance"),
        (NOTHING, NOTHING[:3], {"required": False}, None, "not enough rows"),
        (np.ones(500), np.ones(500), {}, False, "no more than chance"),
        (np.ones(500), np.full(500, 2.0), {}, True, "one value, 2, has 100.0% of the rows with a value; it had 0.0%"),
        (FLAGS * 1, 1 - FLAGS[:500], {"kind": "int"}, True, "66.6% of the values are 1"),
        (FLAGS * 1, FLAGS[:500] * 1 + 0.5, {}, True, "one value, 0.5, has 66.6% of the rows"),
        (NORMAL, np.where(NORMAL[:500] > 1, np.inf, NORMAL[:500]), {}, True, "one value, Infinity, has"),
        (NORMAL, np.where(NORMAL[:500] < -1, -np.inf, NORMAL[:500]), {}, True, "one value, -Infinity, has"),
        (np.where(NORMAL > 1, np.inf, NORMAL), NORMAL[:500], {}, True, "of the values are (below|at most)"),
        (NORMAL, ["high", "low"] * 250, {}, None, "inconclusive: expected numbers, the window has texts"),
        (NORMAL, [None, *NORMAL[:500].tolist()], {"required": False}, False, "no more than chance"),
        (NORMAL, [[1], {}] * 100, {}, None, "inconclusive: expected numbers, the window has mixed"),
        (NORMAL, pd.Categorical(NORMAL[:500]), {}, False, "no more than chance"),
        (FLAGS, FLAGS[:501], {"kind": "bool"}, False, "no more than chance"),
        (FLAGS, FLAGS[:501].astype(float), {"kind": "bool"}, False, "no more than chance"),
        (FLAGS, ~FLAGS[:501], {"kind": "bool"}, True, "of the values are"),
        (HOMES, HOMES[:500], {"kind": "string"}, False, "no more than chance"),
        (HOMES, pd.Categorical(HOMES[:500], ["own", "rent", "ship"]), {"kind": "string"}, False, "no more than chance"),
        (HOMES, np.arange(500), {"kind": "string"}, True, "100.0% of the values are other values"),
        (HOMES, [["own"], {}, 1] * 100, {"kind": "string"}, True, "100.0% of the values are other values"),
        (np.arange(2000).astype(str), np.arange(2000, 2500).astype(str), {"kind": "string"}, False, "chance"),
        (DAYS, DAYS[:730], {"kind": "datetime"}, False, "no more than chance"),
        (DAYS, DAYS[:730].tz_localize("UTC"), {"kind": "datetime"}, False, "no more than chance"),
        (DAYS, DAYS[:730].astype(str), {"kind": "datetime"}, False, "no more than chance"),
        (DAYS, DAYS[:730] + pd.Timedelta(days=90), {"kind": "datetime"}, True, r"are (below|at most) 2026-\d\d-\d\d, "),
        (DAYS, ["9999-12-31", *DAYS[:729].astype(str)], {"kind": "datetime"}, False, "no more than chance"),
        (DAYS.insert(0, FAR), DAYS[:730].insert(0, FAR), {"kind": "datetime"}, False, "no more than chance"),
        (DAYS, ["tomorrow"] * 500, {"kind": "datetime"}, None, "inconclusive: expected times, the window has texts"),
        (DAYS, np.arange(500), {"kind": "datetime"}, None, "inconclusive: expected times, the window has integer"),
    ],
)  # fmt: skip
def test_every_column_has_a_result_with_its_reason(reference, window, kind, drifted, reason):
    result = one(reference, window, **kind)
    assert result.drifted is drifted, result
    assert re.search(reason, result.reason), result.reason


# Columns that collapse

ZIPF = 1 / np.arange(1, 901)
POOLS = {"two": 2, "ten": 10, "postcode": 500, "client": 5000}


def draw_names(rng, n):
    """Columns of 2, 10, 500 and about 900 categories in 1,000 rows, Zipf's shares, whole and rounded numbers."""
    columns = {name: rng.integers(size, size=n).astype(str) for name, size in POOLS.items()}
    columns["street"] = rng.choice(900, n, p=ZIPF / ZIPF.sum()).astype(str)
    return pd.DataFrame(columns | {"amount": rng.normal(size=n), "rounded": rng.normal(size=n).round(1)})


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("effect", [0.05, 0.0])
def test_of_2000_windows_of_names_without_drift_at_most_half_a_percent_raise_an_alarm(effect):
    rng, alarms = np.random.default_rng(11), []
    for _ in range(40):
        profile = profile_of(draw_names(rng, int(rng.choice([500, 1000, 5000]))))
        for rows in rng.choice([100, 300, 1000, 3000, 10_000], 50, p=[0.25, 0.25, 0.25, 0.15, 0.1]):
            alarms.append([c.part for c in measure_drift(profile, draw_names(rng, rows), effect=effect).drifting])
    assert sum(bool(parts) for parts in alarms) <= 10
    assert sum("one value" in parts or "different values" in parts for parts in alarms) <= 2


@pytest.fixture(scope="module")
def names():
    rng = np.random.default_rng(12)
    frame = draw_names(rng, 1000)
    mails = [f"dear {i:04} we need {rng.integers(900):03} of them" for i in range(1000)]
    profile = profile_of(frame)
    profile["inputs"]["mail"] = profile_texts(np.array(mails, dtype=object))
    profile = json.loads(json.dumps(profile, allow_nan=False))
    window = draw_names(rng, 500)
    window["mail"] = [f"dear {1000 + i} we need {rng.integers(900):03} of them" for i in range(500)]
    return profile, window


def test_names_as_they_were_are_no_drift(names):
    profile, window = names
    assert measure_drift(profile, window).drifting == []
    (client,) = measure_drift({"inputs": {"client": profile["inputs"]["client"]}}, window).columns
    assert client.drifted is False


@pytest.mark.parametrize(
    ("name", "collapse", "part", "reason"),
    [
        ("client", lambda c: "unknown", "one value", r"'unknown', has 100\.0% of the rows .*; it had at most 0\.\d%"),
        ("client", lambda c: "", "one value", "one value, '', has 100.0%"),
        ("client", lambda c: c.iloc[0], "one value", "has 100.0%"),
        ("client", lambda c: c.where(c.index >= 50, "0"), "one value", "one value, '0', has 10.[0-9]%"),
        ("client", lambda c: (c.astype(int) % 60).astype(str), "different values",
         "60 different values in 500 rows, about 3.. were"),
        ("postcode", lambda c: (c.astype(int) % 100).astype(str), "different values", "were expected"),
        ("street", lambda c: c.where(c != "0", "1"), "values", "of the values are 1, "),
        ("street", lambda c: "none", "one value", "one value, 'none', has 100.0%"),
        ("ten", lambda c: "none", "values", "one value, 'none', has 100.0% of the rows with a value; it had 0.0%"),
        ("two", lambda c: "1", "values", "100.0% of the values are 1"),
        ("mail", lambda c: "dear 1 we need 5", "one value", "one value, 'dear 1 we need 5', has 100.0%"),
        ("mail", lambda c: "word " * 900, "one value", "one value, 'word word word .*…', has 100.0%"),
        ("amount", lambda c: 0.1234, "one value", "one value, 0.1234, has 100.0%"),
        ("amount", lambda c: (c * 4).round() / 4, "one value", "one value, 0.*, has"),
        ("amount", lambda c: c.where(c.index >= 45, 0.0), "one value", "one value, 0, has 9"),
        ("rounded", lambda c: c.round(), "(one value|values)", ""),
        ("client", lambda c: None, "missing", "100.0% of the values are missing, 0.0% in the reference"),
        ("amount", lambda c: np.nan, "missing", "100.0% of the values are missing"),
    ],
)  # fmt: skip
def test_a_column_that_collapses_is_drift_and_its_value_is_named(names, name, collapse, part, reason):
    profile, window = names
    report = measure_drift(profile, window.assign(**{name: collapse(window[name])}))
    (column,) = report.drifting
    assert column.name == name
    assert re.fullmatch(part, column.part), column
    assert re.search(reason, column.reason), column.reason
    assert sum(column.histogram["window"]) == pytest.approx(1)
    assert DriftReport.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False))) == report


@pytest.mark.parametrize("value", [None, "unknown", ""])
def test_a_certain_fault_is_reported_after_ten_rows(names, value):
    profile, window = names
    report = measure_drift(profile, window.head(10).assign(client=value))
    assert [c.name for c in report.drifting] == ["client"]


def test_half_of_the_categories_gone_is_drift():
    rng = np.random.default_rng(13)
    profile = profile_of(pd.DataFrame({"x": rng.integers(500, size=5000).astype(str)}))
    for rows in (1000, 20_000):
        result = measure_drift(profile, pd.DataFrame({"x": rng.integers(250, size=rows).astype(str)})).columns[0]
        assert result.drifted
        assert result.part in ("different values", "values")


@pytest.mark.parametrize("rows", [300, 3000, 30_000])
def test_a_window_that_replays_the_training_table_is_no_drift(rows):
    reference = draw_names(np.random.default_rng(14), 1000)
    window = reference.sample(rows, replace=True, random_state=1)
    assert measure_drift(profile_of(reference), window).drifting == []


def test_a_profile_without_multiplicities_is_compared_as_before(names):
    profile, window = names
    old = {"inputs": {k: {n: v for n, v in p.items() if n != "multiplicity"} for k, p in profile["inputs"].items()}}
    assert measure_drift(old, window).drifting == []
    fewer = window.assign(client=(window["client"].astype(int) % 60).astype(str))
    assert measure_drift(old, fewer).drifting == []
    assert [c.name for c in measure_drift(old, window.assign(client="unknown")).drifting] == ["client"]


@hypothesis.given(st.data())
def test_the_p_value_of_one_value_is_never_below_the_exact_one(data):
    from scipy import stats

    n, m = data.draw(st.integers(1, 3000)), data.draw(st.integers(1, 3000))
    window, reference = data.draw(st.integers(1, m)), data.draw(st.integers(0, n))
    exact = stats.hypergeom.sf(window - 1, n + m, window + reference, m) * (n + m) / (window + reference)
    assert one_value_p_value(window, reference, n, m) >= min(1, exact) * (1 - 1e-6)
    assert one_value_p_value(window, reference, n, m) <= one_value_p_value(window, min(n, reference + 1), n, m) + 1e-12


LETTERS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40)


@hypothesis.given(LETTERS, LETTERS)
def test_different_values_are_between_one_and_all_of_the_rows(reference, window):
    rows, values = np.unique(np.unique(reference, return_counts=True)[1], return_counts=True)
    counts = np.unique(window, return_counts=True)[1]
    found, expected, s, p = distinct_values_test(np.column_stack([rows, values]), counts)
    assert s == min(len(reference), len(window))
    assert 1 - 1e-9 <= found <= min(s, len(set(window))) + 1e-9
    assert 1 - 1e-9 <= expected <= min(s, len(set(reference))) + 1e-9
    assert 0 <= p <= 1


def test_an_unseen_category_is_named():
    result = one(HOMES, np.r_[HOMES[:400], ["ship"] * 100], kind="string")
    assert result.drifted
    assert result.unseen == ("ship",)
    assert result.unseen_share == 0.2


def test_categories_that_the_profile_cannot_name_are_not_called_unseen():
    codes = (np.arange(20_000) % 1000).astype(str)
    assert one(codes, codes[:500], kind="string").unseen is None


def test_a_column_that_was_never_logged_is_inconclusive():
    profile = profile_of(pd.DataFrame({"x": NORMAL, "y": NORMAL}))
    report = measure_drift(profile, pd.DataFrame({"x": NORMAL[:500]}))
    assert report.drifted is None
    assert report.columns[1].reason == "inconclusive: the window has no such column"


def test_prediction_and_probability_are_measured():
    signature = Signature((Input("x"),), "classification", "y", (0, 1))
    yes = np.random.default_rng(0).random(2000)
    answer = Predictions((yes > 0.5).astype(int), np.column_stack([1 - yes, yes]), (0, 1))
    profile = make_profile(signature, pd.DataFrame({"x": NORMAL}), answer)
    now = Predictions(np.ones(500, dtype=object), np.column_stack([1 - yes[:500] / 2, yes[:500] / 2]).tolist(), (0, 1))
    report = measure_drift(profile, pd.DataFrame({"x": NORMAL[:500]}), now)
    assert [(c.role, c.name, c.drifted) for c in report.columns] == [
        ("input", "x", False), ("prediction", "prediction", True), ("probability", "1", True),
    ]  # fmt: skip
    assert (
        measure_drift(profile, pd.DataFrame({"x": []}), Predictions(np.array([]), np.empty((0, 2)), (0, 1))).drifted
        is None
    )


def test_the_profile_of_an_older_bundle_is_read_and_its_gaps_are_inconclusive():
    old_number = {k: v for k, v in profile_numbers(NORMAL).items() if k != "grid"}
    old_category = {k: v for k, v in profile_values(HOMES).items() if k != "listed"}
    codes = np.arange(2000).astype(str)
    old_codes = {k: v for k, v in profile_values(codes).items() if k not in ("listed", "sample")}
    old_float = old_category | {"counts": {"1.0": 1000, "2.0": 1000}}
    profile = {"inputs": {"n": old_number, "home": old_category, "code": old_codes, "class": old_float}}
    window = pd.DataFrame({"n": NORMAL[:500], "home": HOMES[:500], "code": codes[:500], "class": [1, 2] * 250})
    report = measure_drift(profile, window)
    assert [c.drifted for c in report.columns] == [None, False, None, False]
    assert "older bundle" in report.columns[0].reason
    assert "older bundle" in report.columns[2].reason
    missing = measure_drift(profile, window.assign(n=np.where(np.arange(500) < 100, np.nan, 0.0)))
    assert missing.columns[0].drifted
    assert missing.columns[0].part == "missing"


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=6), st.dates())


@pytest.mark.slow
@hypothesis.given(
    st.lists(VALUES, max_size=30), st.sampled_from(["float", "int", "bool", "string", "datetime", "text"])
)
def test_the_result_of_any_window_can_be_stored(values, kind):
    text = pd.Series([f"some words {i} of {i % 7}" for i in range(200)])
    reference = {
        "float": NORMAL,
        "int": np.arange(500),
        "bool": FLAGS,
        "string": HOMES,
        "datetime": DAYS,
        "text": text,
    }[kind]
    result = one(reference, pd.Series(values, dtype=object), kind="string" if kind == "text" else kind)
    assert result.drifted in (True, False, None)
    assert result.reason


@pytest.mark.slow
@hypothesis.given(
    st.lists(st.floats(), max_size=60), st.lists(st.floats(), max_size=60), st.floats(0.001, 0.5), st.floats(0, 0.5)
)
def test_any_floats_against_any_floats(reference, window, alpha, effect):
    profile = {"inputs": {"x": json.loads(json.dumps(profile_numbers(np.array(reference)), allow_nan=False))}}
    report = measure_drift(profile, pd.DataFrame({"x": np.array(window, dtype=float)}), alpha=alpha, effect=effect)
    assert DriftReport.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False))) == report
    assert "column" in report._repr_html_()
    (column,) = report.columns
    if column.histogram:
        for which in ("reference", "window"):
            assert sum(column.histogram[which]) == pytest.approx(1)
            assert min(column.histogram[which]) >= 0


@pytest.mark.slow
def test_report_plots_drifted_columns_or_one_sentence():
    profile = profile_of(pd.DataFrame({"x": NORMAL, "y": NORMAL}))
    drifted = measure_drift(profile, pd.DataFrame({"x": NORMAL[:500] + 1, "y": NORMAL[:500]}))
    assert [axes.get_title() for axes in drifted.plot().axes] == ["x"]
    calm = measure_drift(profile, pd.DataFrame({"x": NORMAL[:500], "y": NORMAL[:500]}))
    assert calm.plot().get_suptitle() == "No column drifted"
    assert "no drift" in calm._repr_html_()


def test_markup_in_a_category_is_shown_and_not_run():
    profile = profile_of(pd.DataFrame({"x": ["<script>", "fine"] * 500, "y": NORMAL[:1000]}))
    html = measure_drift(profile, pd.DataFrame({"x": ["<script>"] * 500, "y": NORMAL[:500]}))._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html


def test_column_whose_reference_is_too_small_for_every_window_does_not_decide_the_status():
    rng = np.random.default_rng(0)
    profile = {"inputs": {"many": profile_numbers(rng.normal(size=2000)), "few": profile_numbers(rng.normal(size=30))}}
    for rows in (500, 100_000):
        report = measure_drift(profile, pd.DataFrame(rng.normal(size=(rows, 2)), columns=["many", "few"]))
        assert {c.name: (c.drifted, c.permanent) for c in report.columns} == {
            "many": (False, False),
            "few": (None, True),
        }
        found = check_drift(report)
        assert found.inconclusive == []
        assert found.permanent[0].startswith("drift of few: not enough rows: the reference has 30")
        assert DriftReport.from_dict(report.to_dict()) == report
    waiting = measure_drift(profile, pd.DataFrame(rng.normal(size=(3, 2)), columns=["many", "few"]))
    assert check_drift(waiting).inconclusive[0].startswith("drift of many: not enough rows")


def test_page_of_many_columns_draws_the_first_of_them():
    profile = {"inputs": {f"x{i}": profile_numbers(np.arange(200.0) + i) for i in range(300)}}
    window = pd.DataFrame({name: np.arange(200.0) + i for i, name in enumerate(profile["inputs"])})
    page = measure_drift(profile, window)._repr_html_()
    assert all(f">{name}<" in page for name in window)
    assert page.count("<svg") == len(window.columns) + 100, "an effect each, and distributions of the first"
