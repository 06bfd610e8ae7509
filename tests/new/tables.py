"""Tables that the project has never seen, as somebody might have them, each with what its owner says about it."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Given:
    """A table on disk, and what its owner says about it."""

    data: str
    target: str
    options: tuple[str, ...] = ()


def claims(folder: Path) -> Given:
    """Mixed types, in a German dialect of CSV: ids, a constant, booleans, dates, missing values, and two leaks."""
    rng, n = np.random.default_rng(1), 900
    table = pd.DataFrame({"Vertrag": [f"V-{i:06}" for i in rng.permutation(n)]})
    table["Alter"] = rng.integers(18, 90, n)
    table["Prämie"] = rng.normal(420.5, 90, n).round(2)
    table["Tarif"] = rng.choice(["Basis", "Komfort", "Premium"], n, p=[0.6, 0.3, 0.1])
    table["Ort"] = rng.choice([f"Ort {chr(65 + i)}{j}" for i in range(6) for j in range(8)], n)
    table["Garage"] = rng.choice([True, False], n)
    table["Beginn"] = (pd.Timestamp("2015-01-01") + pd.to_timedelta(rng.integers(0, 3000, n), "D")).strftime("%d.%m.%Y")
    table["Währung"] = "EUR"
    table["Vorschäden"] = np.where(rng.uniform(size=n) < 0.1, np.nan, rng.poisson(0.6, n))
    score = 0.9 * table["Vorschäden"].fillna(0) + (table["Tarif"] == "Premium") - 0.02 * (table["Alter"] - 40)
    claim = rng.uniform(size=n) < 1 / (1 + np.exp(1.2 - score))
    table["Auszahlung"] = np.where(claim, rng.gamma(2, 800, n).round(2), np.nan)
    table["gemeldet_am"] = np.where(claim, "01.02.2024", None)
    table["Schaden"] = np.where(claim, "ja", "nein")
    table.loc[::13, "Tarif"] = None
    table.to_csv(folder / "Schäden.csv", sep=";", decimal=",", encoding="latin-1")
    return Given("Schäden.csv", "Schaden")


def reviews(folder: Path) -> Given:
    """Text, in Parquet: a title that may be missing, and a body."""
    rng, n = np.random.default_rng(2), 600
    words = {
        "good": ["works very well", "great quality", "fast delivery", "would buy it again", "nice colour"],
        "bad": ["broke after a week", "very poor quality", "never arrived", "asked for my money back", "too small"],
        "neutral": ["it is as described", "does what it should", "nothing special about it", "average for the price"],
    }
    stars = rng.choice(list(words), n, p=[0.5, 0.2, 0.3])
    result = [". ".join(rng.choice(words[s if rng.uniform() < 0.9 else "neutral"], rng.integers(1, 4))) for s in stars]
    seen = [f"bought {i} days ago, order {rng.integers(1e6)}" for i in rng.integers(1, 400, n)]
    table = pd.DataFrame({"body": [f"{a}. {b}" for a, b in zip(result, seen, strict=True)], "opinion": stars})
    table.insert(
        0, "title", [None if rng.uniform() < 0.2 else f"{s.split('.')[0]} number {i}" for i, s in enumerate(result)]
    )
    table.to_parquet(folder / "reviews.parquet")
    return Given("reviews.parquet", "opinion")


def rentals(folder: Path) -> Given:
    """A time series, split by time: bicycles an hour."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"at": pd.date_range("2024-01-01", periods=2400, freq="h").strftime("%Y-%m-%d %H:%M:%S")})
    hour, day = np.arange(2400) % 24, np.arange(2400) / 24
    table["temperature"] = (8 + 6 * np.sin(day / 30) + rng.normal(0, 2, 2400)).round(1)
    table["holiday"] = rng.uniform(size=2400) < 0.05
    table["station"] = rng.choice(["north", "harbour"], 2400)
    rate = (
        20 + 15 * np.sin((hour - 8) / 24 * 2 * np.pi) + 2 * table["temperature"] + 10 * (table["station"] == "harbour")
    )
    table["rented"] = rng.poisson(rate.clip(1))
    table.to_csv(folder / "rentals.csv", index=False)
    return Given("rentals.csv", "rented", ("--time", "at"))


def wines(folder: Path) -> Given:
    """Several classes, one with too few rows, in Excel."""
    rng, n = np.random.default_rng(4), 500
    kinds = np.array(["Riesling", "Merlot", "Malbec", "Pinot noir", "Syrah"])
    which = rng.integers(0, 5, n)
    table = pd.DataFrame(
        {"alcohol %": 10 + which * 0.6 + rng.normal(0, 0.5, n), "acid": rng.normal(5, 1, n) - which * 0.3}
    )
    table["colour"] = np.where(which == 0, "white", "red")
    table["sugar (g/l)"] = rng.gamma(2, 2, n).round(1)
    table.loc[rng.uniform(size=n) < 0.1, "acid"] = np.nan
    table["grape"] = kinds[which]
    table.loc[:2, "grape"] = "Tannat"
    table.to_excel(folder / "wines.xlsx", index=False)
    return Given("wines.xlsx", "grape")


def payments(folder: Path) -> Given:
    """One row in a hundred is positive, in a database."""
    rng, n = np.random.default_rng(5), 12_000
    fraud = (rng.uniform(size=n) < 0.01).astype(int)
    table = pd.DataFrame({"payment_id": np.arange(n) + 700_000, "amount": rng.lognormal(3 + 1.5 * fraud, 1).round(2)})
    table["country"] = np.where(rng.uniform(size=n) < 0.15 + 0.5 * fraud, "abroad", "home")
    table["hour"] = np.where(fraud & (rng.uniform(size=n) < 0.7), rng.integers(0, 5, n), rng.integers(0, 24, n))
    table["fraud"] = fraud
    database = sqlite3.connect(folder / "bank.db")
    table.to_sql("payments", database, index=False)
    database.close()
    return Given("sqlite:///bank.db", "fraud", ("--query", "SELECT * FROM payments"))


TABLES: dict[str, Callable[[Path], Given]] = {f.__name__: f for f in (claims, reviews, rentals, wines, payments)}
