"""`mlops-nb new` for columns in forms of their own: prices, shares, dates and spellings, read alike every way."""

import csv
import json
import random
import sys
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from serve.app import create_app
from tests.new.tables import Given
from tests.new.test_new import Made

pytestmark = pytest.mark.slow


def sales(folder: Path) -> str:
    """Prices with a currency, shares, millions, words among numbers, and two usual forms of dates."""
    r, lines = random.Random(3), ["price,share,size,total,day,sent,label"]
    for i in range(240):
        price, share = r.uniform(5, 5000), r.uniform(0, 100)
        total = ["", "-", "unknown"][i % 3] if i % 11 == 0 else f"{price * r.uniform(0.2, 0.4):.2f}"
        day = f"{r.choice(['January', 'May'])} {r.randint(1, 28)} 2024"
        cells = [f'"${price:,.2f}"', f"{share:.0f}%", f"{r.randint(1, 99)}M", total, day]
        cells += [f"{r.randint(1, 12)}/{r.randint(1, 28)}/24", "y" if price + 20 * share > 3200 else "n"]
        lines.append(",".join(cells))
    (folder / "sales.csv").write_text("\n".join(lines) + "\n")
    return "sales.csv"


def cities(folder: Path) -> str:
    r, lines = random.Random(4), ["age,city,label"]
    for _ in range(200):
        age = r.randint(20, 60)
        city = r.choice(["Bern", "Bern", " bern", "BERN", "Basel"])
        lines.append(f"{age},{city},{'y' if r.random() < age / 70 else 'n'}")
    (folder / "cities.csv").write_text("\n".join(lines) + "\n")
    return "cities.csv"


def load(project: Made):
    sys.path.insert(0, str(project.path))
    try:
        return import_module(project.spec)
    finally:
        sys.path.remove(str(project.path))


@pytest.mark.parametrize("target", ["label", "price"])
def test_rows_in_any_form_are_predicted_alike(target, tmp_path, monkeypatch):
    made = Made(tmp_path, f"sales_of_{target}", Given(sales(tmp_path), target))
    assert "`price`: `$" in made.output
    assert "values `unknown` became missing" in made.output or "values `unknown` and" in made.output
    made.build(spec=made.spec)
    monkeypatch.chdir(made.path)
    module = load(made)
    spec, n = module.spec, 40
    kinds = {"size": "int64", "price": "float64", "share": "float64", "total": "float64"}
    table = module.load()
    assert {name: str(table[name].dtype) for name in kinds} == kinds
    assert spec.task == ("classification" if target == "label" else "regression")
    lines = (tmp_path / "sales.csv").read_text().splitlines()[: n + 1]
    written = list(csv.DictReader(lines))
    typed = json.loads(table.head(n)[spec.inputs].to_json(orient="records", double_precision=15))
    assert written[1]["price"].startswith("$")
    app = create_app(Settings.read({"MLOPS_HOME": str(made.path), "MLOPS_MODEL": spec.name}))
    live_model(app).refresh()
    client = app.test_client()
    answers = [client.post("/invocations", data="\n".join(lines), content_type="text/csv")]
    answers += [client.post("/predict", json={"features": rows}) for rows in (written, typed)]
    answers += [client.post("/predict", json={"features": rows[:1]}) for rows in (written, typed)]
    assert [answer.status_code for answer in answers] == [200] * 5, [answer.text for answer in answers]
    of_csv, *of_json = [answer.json.get("predictions") or answer.json["prediction"] for answer in answers]
    assert of_csv == of_json[0] == of_json[1]
    assert of_json[2] == of_json[3] == of_csv[:1]
    ids = answers[1].json["ids"]
    labels = [written[0][target], table[target].tolist()[0]]
    for label, status in [*((label, 202) for label in labels), ("free", 400)]:
        answer = client.post("/feedback", json={"id": ids[0], "label": label})
        assert answer.status_code == status, answer.text
    app.stop()
    out = made.path / "out.csv"
    done = made.run("mlops-nb", "predict", spec.name, "--input", str(tmp_path / "sales.csv"), "--output", str(out))
    assert done.returncode == 0, done.stderr
    job = pd.read_csv(out)["prediction"].tolist()
    assert len(job) == 240
    assert job[:n] == (of_csv if target == "label" else pytest.approx(of_csv, rel=1e-9))


def test_values_that_differ_in_case_and_blanks_are_shown_and_merged_on_request(tmp_path, monkeypatch):
    data = cities(tmp_path)
    kept = Made(tmp_path, "kept_cities", Given(data, "label"))
    assert "`city`: 'Bern' (" in kept.errors
    assert "--merge city" in kept.errors
    monkeypatch.chdir(kept.path)
    prose = json.loads((kept.path / "nbs" / "kept_cities.ipynb").read_text())["cells"]
    text = "".join(line for cell in prose for line in cell["source"])
    assert "kept as different values that differ in case and blanks alone" in text
    assert set(load(kept).load()["city"]) == {"Bern", " bern", "BERN", "Basel"}
    merged = Made(tmp_path, "merged_cities", Given(data, "label", ("--merge", "city")))
    assert "read as one value each" in merged.output
    assert "--merge" not in merged.errors
    monkeypatch.chdir(merged.path)
    module = load(merged)
    assert set(module.load()["city"]) == {"Bern", "Basel"}
    assert module.spec.dialect.spellings == {"city": ("Bern", "Basel")}
