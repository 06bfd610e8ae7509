"""Seeded tables of mixed kinds and dirt, written as text files in many ways."""

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from tests.new.tables import Given

NAMES = ["Größe", "unit price", "n.items", "Fläche (m²)", "class", "1st", "x", "Name, first", "it's", "a/b", "city"]
WORDS = np.array(["quiet", "flat", "near", "park", "lake", "with", "view", "loft", "garden", "old", "new"])
DATES = ["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%B %d, %Y", "%d-%b-%y", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]


def _number(rng, n, comma):
    return rng.normal(50, 20, n).round(2), lambda v: f"{v:.2f}".replace(".", comma)


def _whole(rng, n, _comma):
    return rng.integers(0, 300, n), str


def _money(rng, n, comma):
    point = "." if comma == "," else ","
    swap = str.maketrans({",": point, ".": comma})
    return rng.lognormal(7, 1, n).round(2), lambda v: "$" + f"{v:,.2f}".translate(swap)


def _percent(rng, n, _comma):
    return rng.integers(0, 101, n), lambda v: f"{v}%"


def _with_unit(rng, n, _comma):
    return rng.integers(1, 90, n), lambda v: f"{v} kg"


def _category(rng, n, _comma):
    return rng.choice(["Bern", "Zürich", "Basel", "St. Gallen"], n, p=[0.5, 0.3, 0.15, 0.05]), str


def _many(rng, n, _comma):
    return rng.choice([f"town {i}" for i in range(40)], n), str


def _truth(rng, n, _comma):
    yes, no = [("yes", "no"), ("True", "False"), ("J", "N"), ("1", "0")][rng.integers(4)]
    return rng.random(n) < 0.4, lambda v: yes if v else no


def _date(rng, n, _comma):
    form = DATES[rng.integers(len(DATES))]
    days = pd.Timestamp("2019-05-01") + pd.to_timedelta(rng.integers(0, 1500 * 24, n), "h")
    return days.to_numpy(), lambda v: pd.Timestamp(v).strftime(form)


def _epoch(rng, n, _comma):
    unit = int(rng.choice([1, 1000]))
    return rng.integers(1_500_000_000, 1_700_000_000, n) * unit, str


def _booked(rng, n, comma):
    point = "." if comma == "," else ","
    swap = str.maketrans({",": point, ".": comma})
    return rng.normal(0, 900, n).round(2), lambda v: f"{abs(v):,.2f}".translate(swap) + ("-" if v < 0 else "")


def _day(rng, n, _comma):
    days = pd.Timestamp("2019-05-01") + pd.to_timedelta(rng.integers(0, 1500, n), "D")
    return days.to_numpy(), lambda v: pd.Timestamp(v).strftime("%Y%m%d")


def _text(rng, n, _comma):
    return np.array([" ".join(rng.choice(WORDS, rng.integers(3, 9))) for _ in range(n)]), str


def _code(rng, n, _comma):
    return rng.integers(1, 9999, n), lambda v: f"{v:05}"


def _identity(rng, n, _comma):
    return rng.permutation(n), lambda v: f"C-{v:06}"


def _constant(_rng, n, _comma):
    return np.zeros(n), lambda _: "EUR"


KINDS: list[Callable] = [_number, _whole, _money, _percent, _with_unit, _category, _many, _truth, _date, _text]
KINDS += [_code, _identity, _constant, _epoch, _booked, _day]
FILES = ["csv", "csv", "csv.gz", "zip", "jsonl", "json", "xlsx"]
TIME_NAMES = ["created_at", "last login", "Timestamp", "ts", "seen", "eventTime", "epoch", "updated"]
MISSING = ["", "NA", "n/a", "-", "unknown", "None", "?"]


def random_table(folder: Path, seed: int) -> tuple[Given, list[dict[str, str]], str]:
    """A table, its rows as texts, and the text of its file."""
    rng = np.random.default_rng(seed)
    n, sep = int(rng.integers(150, 500)), str(rng.choice([",", ";", "\t", "|"]))
    comma = "," if sep == ";" and rng.random() < 0.7 else "."
    encoding = str(rng.choice(["utf-8", "utf-8-sig", "cp1252", "utf-16"]))
    makers = [KINDS[i] for i in rng.choice(len(KINDS), int(rng.integers(3, 9)))]
    makers += [_number, _category]
    names = [str(name) for name in rng.permutation(NAMES)[: len(makers)]]
    names = [
        str(TIME_NAMES[i % 8]) if make is _epoch else name
        for i, (name, make) in enumerate(zip(names, makers, strict=True))
    ]
    columns, signal = {}, np.zeros(n)
    for name, make in zip(names, makers, strict=True):
        values, write = make(rng, n, comma)
        if make not in (_identity, _constant, _code):
            codes = pd.factorize(values, sort=True)[0] if values.dtype.kind not in "fi" else values
            signal += rng.normal() * (codes - codes.mean()) / max(codes.std(), 1e-9)
        texts = [write(v) for v in values]
        if make not in (_identity, _constant) and rng.random() < 0.5:
            word, rate = str(rng.choice(MISSING)), rng.uniform(0.01, 0.2)
            texts = [word if gone else text for text, gone in zip(texts, rng.random(n) < rate, strict=True)]
        if rng.random() < 0.2:
            texts = [f" {text}" if padded else text for text, padded in zip(texts, rng.random(n) < 0.3, strict=True)]
        columns[name] = texts
    columns["target"] = _target(rng, signal + rng.normal(size=n), comma)
    lines = [*columns], *zip(*columns.values(), strict=True)
    file = io.StringIO()
    csv.writer(file, delimiter=sep, quoting=int(rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))).writerows(lines)
    rows = [dict(zip(columns, row, strict=True)) for row in lines[1:]]
    path = folder / f"table_{seed}.{rng.choice(FILES)}"
    _write(path, file.getvalue().encode(encoding), rows)
    return Given(path.name, "target"), rows, file.getvalue()


def _write(path: Path, csv_file: bytes, rows: list[dict[str, str]]):
    """Write a table as a file of its ending: text, packed or not, JSON, or a sheet of texts below a title."""
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("export/table.csv", csv_file)
    elif path.suffix == ".xlsx":
        table = pd.DataFrame(rows)
        with pd.ExcelWriter(path) as book:
            table.to_excel(book, sheet_name="Rows", startrow=2, index=False)
            table.head(3).to_excel(book, sheet_name="Other", index=False)
            book.sheets["Rows"].cell(1, 1, "Export of rows")
    else:
        path.write_bytes(gzip.compress(csv_file) if path.suffix == ".gz" else csv_file)


def _target(rng, signal: np.ndarray, comma: str) -> list[str]:
    kind = rng.integers(4)
    if kind == 0:
        return ["yes" if v > 0.5 else "no" for v in signal]
    if kind == 1:
        return [["low", "mid", "high"][i] for i in np.digitize(signal, [-1, 1])]
    if kind == 2:
        return [f"{100 + 20 * v:.1f}".replace(".", comma) for v in signal]
    return [str(int(v > 0)) for v in signal]
