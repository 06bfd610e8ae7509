"""What `mlops-nb new` drafts for a table, beside the best plain baseline: `python -m benchmarks.tables [NAME ...]`.

Both are cross-validated on the same folds, which are none of the trial's. The baseline is the best of a few models on
columns that were cleaned by hand (benchmarks/cleaned_tables.py), chosen on these very folds. Each row of the file is
sent through the input of the model as it is written.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import pandas as pd
from sklearn.model_selection import RepeatedKFold, RepeatedStratifiedKFold, cross_val_score
from threadpoolctl import threadpool_limits

from benchmarks.cleaned_tables import TABLES, Known
from benchmarks.plain_baselines import plain_baselines
from benchmarks.random_ways import whole_way
from mlops_nb.data.tables import DIALECT, dialect_of, load_table, validate
from mlops_nb.model.columns import input_frame
from mlops_nb.model.metrics import get_metric
from mlops_nb.model.signature import signature_of
from mlops_nb.model.train import fit
from mlops_nb.project import estimator_code
from mlops_nb.project.draft import draft_notebook
from mlops_nb.project.judgement import judge_table
from mlops_nb.project.table_formats import in_own_formats
from mlops_nb.project.table_source import open_table
from tests.model.ways import one_by_one

MARGIN = {"r2": 0.02}  # that a draft may be behind; 0.01 in other metrics
HEADING = [
    "table",
    "rows",
    "metric",
    "drafted",
    "score",
    "best plain baseline",
    "score",
    "difference",
    "rows answered",
    "seconds of `new`",
]


def measure(known: Known, minutes: float) -> dict:
    """Draft a notebook for a table; cross-validate its estimator and the baselines; send every row as it is written."""
    with TemporaryDirectory() as folder, chdir(folder):
        Path("data").mkdir()
        given, start = known.write(Path("data")), time.perf_counter()
        given = replace(given, data=f"data/{given.data}")
        header = False if dict(known.read).get("header", 0) is None else None
        table = in_own_formats(open_table(given.data, header=header))
        judged = judge_table(table.frame, given.target, minutes=minutes)
        script = draft_notebook("drafted", table.source, judged.summary, judged.comparison)
        seconds = time.perf_counter() - start
        spec = exported_spec(script)
        rows = validate(load_table(spec.load, None, spec.schema, spec.dialect), spec.schema, dialect=spec.dialect)
        return measure_spec(known, given, spec, rows, judged.comparison) | {"seconds": seconds}


def exported_spec(script: str):
    """The spec that the exported cells of a drafted notebook make."""
    cells = [cell for cell in script.split("\n\n# %%") if cell.lstrip().startswith("#| export")]
    module = ModuleType("drafted")
    exec("\n\n".join(cells), module.__dict__)
    return module.spec


def measure_spec(known: Known, given, spec, table: pd.DataFrame, comparison) -> dict:
    X, y = input_frame(spec, table), table[spec.target]
    classifies = spec.task == "classification"
    cut = RepeatedStratifiedKFold if classifies else RepeatedKFold
    folds = [*cut(n_splits=5, n_repeats=2 if len(y) < 1500 else 1, random_state=1).split(X, y)]
    truth = (y == list(comparison_classes(y))[1]).astype(int) if classifies and y.nunique() == 2 else y
    own = drafted_scores(known, spec, X, y, truth, folds)
    cleaned = cleaned_columns(known, given, len(y))
    found = {}
    for kind, estimator in plain_baselines(cleaned, truth, known.texts, known.metric):
        found[kind] = cross_val_score(estimator, cleaned, truth, scoring=known.metric, cv=folds)
    best = max(found, key=lambda kind: found[kind].mean())
    answered, rows = count_answered(spec, X, table, given, known)
    return {
        "table": known.name,
        "rows": len(y),
        "metric": known.metric,
        "drafted": str(comparison.chosen),
        "score": float(own.mean()),
        "baseline": best,
        "best": float(found[best].mean()),
        "difference": float(own.mean() - found[best].mean()),
        "error": float((own - found[best]).std(ddof=1) * np.sqrt(1 / len(folds) + 0.25)),
        "answered": [answered, rows],
        "baselines": {kind: float(scores.mean()) for kind, scores in found.items()},
        "trial": {str(kind): mean for kind, (mean, _) in comparison.scores.items()},
        "trial_seconds": {str(kind): spent for kind, spent in comparison.seconds.items()},
    }


def comparison_classes(y: pd.Series) -> pd.Index:
    """The two labels, the frequent one first."""
    return y.value_counts().index


def drafted_scores(known: Known, spec, X, y, truth, folds) -> np.ndarray:
    """Scores of the drafted estimator, with its threshold where labels are counted."""
    decides = known.metric in ("accuracy", "balanced_accuracy")
    spec = spec if decides else replace(spec, threshold=None)
    scores = []
    for train, test in folds:
        estimator = fit(spec, X.iloc[train], y.iloc[train], folds=5 * (spec.threshold is not None)).estimator
        if truth is y:
            scores.append(get_metric(known.metric)(estimator, X.iloc[test], y.iloc[test]))
            continue
        rare = comparison_classes(y)[1]
        if decides:
            guess = pd.Series(np.asarray(estimator.predict(X.iloc[test])) == rare).astype(int)
        else:
            guess = estimator.predict_proba(X.iloc[test])[:, list(estimator.classes_).index(rare)]
        scores.append(get_metric(known.metric)._score_func(truth.iloc[test], guess))
    return np.array(scores)


def cleaned_columns(known: Known, given, rows: int) -> pd.DataFrame:
    """The columns as a person cleans them, of the rows that have a target."""
    raw = pd.read_csv(given.data, **dict(known.read))
    raw.columns = [f"column_{c + 1}" if isinstance(c, int) else c for c in raw]
    raw = raw[raw[given.target].notna()].reset_index(drop=True)
    assert len(raw) == rows, (len(raw), rows)
    cleaned = known.clean(raw.drop(columns=given.target))
    empty = [c for c in cleaned if cleaned[c].nunique() < 2]
    return cleaned.drop(columns=empty).fillna(dict.fromkeys(known.texts, ""))


def count_answered(spec, X, table, given, known: Known) -> tuple[int, int]:
    """Rows of the file that the model's input takes as they are written, and all rows."""
    estimator = fit(replace(spec, threshold=None), X.head(2000), table[spec.target].head(2000), folds=0).estimator
    signature = signature_of(spec, estimator, dialect_of(table).get(DIALECT, {}))
    texts = pd.read_csv(
        given.data, dtype=str, keep_default_na=False, **{k: v for k, v in known.read if k != "skipinitialspace"}
    )
    texts.columns = [f"column_{c + 1}" if isinstance(c, int) else c for c in texts]
    taken, refused = one_by_one(signature, texts.to_dict("records"))
    for number, reason in [*refused.items()][:3]:
        print(f"{known.name}, row {number}: {reason}", file=sys.stderr)
    return len(taken), len(texts)


def as_markdown(rows: list[dict]) -> Iterator[str]:
    """The lines of a table of all results."""
    yield "| " + " | ".join(HEADING) + " |"
    yield "|" + "---|" * len(HEADING)
    for row in rows:
        cells = [
            row["table"],
            f"{row['rows']:,}",
            row["metric"],
            row["drafted"],
            f"{row['score']:.3f}",
            row["baseline"],
        ]
        cells += [
            f"{row['best']:.3f}",
            f"{row['difference']:+.3f}",
            "{:,} of {:,}".format(*row["answered"]),
            f"{row['seconds']:.0f}",
        ]
        yield "| " + " | ".join(cells) + " |"


def beside(before: list[dict], after: list[dict]) -> Iterator[str]:
    """The lines of a table of the scores of two runs, of the tables that are in both."""
    earlier = {row["table"]: row["score"] for row in before}
    yield "| table | metric | before | after | best plain baseline |"
    yield "|---|---|---|---|---|"
    for row in after:
        if row["table"] in earlier:
            figures = f"{earlier[row['table']]:.3f} | {row['score']:.3f} | {row['best']:.3f}"
            yield f"| {row['table']} | {row['metric']} | {figures} |"


def run_random_ways(seeds: str, minutes: float, file: Path | None) -> None:
    """Print how many rows of each random table were answered alike in all forms."""
    first, _, last = seeds.partition("-")
    rows = []
    for seed in range(int(first), int(last or first) + 1):
        rows.append(whole_way(seed, minutes))
        print("{file}: {answered} of {rows} rows. {stopped}".format(**rows[-1]), flush=True)
        if file:
            file.write_text(json.dumps(rows, indent=1))
    whole = sum(row["answered"] == row["rows"] for row in rows)
    print(f"{whole} of {len(rows)} tables were drafted, built and served, and every raw row was answered alike.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="tables, by the beginning of their names; all of them by default")
    parser.add_argument("--minutes", type=float, default=2.0, help="that the trials of a table may take")
    parser.add_argument("--seeds", help="of random tables, such as 0-29, that go the whole way in place of these")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--before", type=Path, help="file of an earlier run, to print its scores beside these")
    asked = parser.parse_args()
    if asked.seeds:
        run_random_ways(asked.seeds, asked.minutes, asked.json)
        return
    estimator_code._is_installed = lambda _: False  # what scikit-learn alone reaches
    chosen = [t for t in TABLES if not asked.names or any(t.name.startswith(name) for name in asked.names)]
    rows = []
    for known in chosen:
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")
            rows.append(measure(known, asked.minutes))
        print(*[*as_markdown(rows)][0 if len(rows) == 1 else -1 :], sep="\n", flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(rows, indent=1))
    if asked.before:
        print("", *beside(json.loads(asked.before.read_text()), rows), sep="\n")
    behind = [row["table"] for row in rows if -row["difference"] > MARGIN.get(row["metric"], 0.01)]
    print(f"\n{len(rows)} tables; behind by more than the margin: {', '.join(behind) or 'none'}.")


if __name__ == "__main__":
    main()
