"""Further look-alikes of public tables: invented rows of used cars, bicycles, wines, loans, students and houses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from tests.new.lookalikes import _happens, _write
from tests.new.tables import Given


def used_cars(folder: Path, n: int = 2500) -> Given:
    """Brands and many models, kilometres with a unit, a power that is missing, a price with a long tail."""
    rng = np.random.default_rng(21)
    brands = [f"Brand{i}" for i in range(20)]
    brand = rng.choice(20, n, p=(w := 1 / np.arange(1, 21)) / w.sum())
    model = brand * 9 + rng.integers(0, 9, n)
    year = 2020 - rng.gamma(2, 3.2, n).clip(0, 25).astype(int)
    km = ((2021 - year) * rng.gamma(6, 2200, n)).round(-2).astype(int)
    table = pd.DataFrame(
        {
            "Name": [
                f"{brands[b]} M{m:03} {rng.choice(['VXi', 'Sport', 'Diesel LX', 'GT'])}"
                for b, m in zip(brand, model, strict=True)
            ]
        }
    )
    table["brand"], table["model"] = np.array(brands)[brand], [f"M{m:03}" for m in model]
    table["year"], table["km_driven"] = year, [f"{k:,} km" for k in km]
    table["fuel"] = rng.choice(["Diesel", "Petrol", "CNG", "LPG"], n, p=[0.5, 0.45, 0.04, 0.01])
    table["transmission"], table["owner"] = (
        rng.choice(["Manual", "Automatic"], n, p=[0.85, 0.15]),
        rng.choice(["First Owner", "Second Owner", "Third Owner"], n, p=[0.65, 0.27, 0.08]),
    )
    power = np.random.default_rng(3).gamma(9, 11, 180)[model]
    table["max_power"] = np.where(rng.random(n) < 0.05, None, [f"{p:.1f} bhp" for p in power])
    level = np.random.default_rng(4).normal(0, 0.25, 20)[brand] + np.random.default_rng(5).normal(0, 0.15, 180)[model]
    log = 13 + level + 0.008 * (power - 99) - 0.11 * (2020 - year) - 2e-6 * km
    log += 0.35 * (table["transmission"] == "Automatic") + 0.15 * (table["fuel"] == "Diesel")
    table["selling_price"] = np.exp(log + rng.normal(0, 0.17, n)).round(-3).astype(int)
    return _write(table, folder, "used_cars.csv", "selling_price")


def bikes(folder: Path, n: int = 4000) -> Given:
    """Hours and weekdays as numbers, whose effect is no line, and counts with a long tail."""
    rng = np.random.default_rng(22)
    start = np.sort(rng.choice(17_544, n, replace=False))
    at = pd.Timestamp("2011-01-01") + pd.to_timedelta(start, "h")
    warm = 0.5 - 0.3 * np.cos(2 * np.pi * (at.dayofyear - 20) / 365) + rng.normal(0, 0.08, n)
    table = pd.DataFrame({"instant": np.arange(1, n + 1), "dteday": at.strftime("%Y-%m-%d")})
    table["season"], table["yr"], table["mnth"], table["hr"] = (
        (at.month % 12 // 3 + 1),
        at.year - 2011,
        at.month,
        at.hour,
    )
    table["weekday"], table["workingday"] = (at.dayofweek + 1) % 7, (at.dayofweek < 5).astype(int)
    table["weathersit"] = rng.choice([1, 2, 3], n, p=[0.66, 0.26, 0.08])
    table["temp"], table["hum"], table["windspeed"] = (
        warm.clip(0.02, 1).round(2),
        rng.beta(6, 4, n).round(2),
        rng.beta(2, 8, n).round(4),
    )
    commute = np.exp(-((at.hour - 8) ** 2) / 3) + 1.2 * np.exp(-((at.hour - 17.5) ** 2) / 5)
    leisure = np.exp(-((at.hour - 14) ** 2) / 25)
    rate = 8 + 300 * np.where(table["workingday"] == 1, commute + 0.35 * leisure, 1.1 * leisure) * (0.3 + table["temp"])
    rate *= (1 + 0.6 * table["yr"]) * np.array([0, 1, 0.9, 0.5])[table["weathersit"]] * (1.2 - 0.4 * table["hum"])
    table["cnt"] = rng.negative_binomial(8, 8 / (8 + rate)) + 1
    return _write(table, folder, "bikes.csv", "cnt")


def wine_quality(folder: Path, n: int = 1600) -> Given:
    """Semicolons, eleven numbers, and marks of which a few are rare."""
    rng = np.random.default_rng(23)
    table = pd.DataFrame(
        {"fixed acidity": rng.gamma(23, 0.36, n).round(1), "volatile acidity": rng.gamma(8.6, 0.061, n).round(2)}
    )
    table["citric acid"], table["residual sugar"] = rng.beta(1.2, 3, n).round(2), rng.lognormal(0.85, 0.3, n).round(1)
    table["chlorides"], table["free sulfur dioxide"] = (
        rng.lognormal(-2.5, 0.3, n).round(3),
        rng.gamma(2.3, 7, n).round(),
    )
    table["total sulfur dioxide"] = (table["free sulfur dioxide"] * rng.gamma(6, 0.5, n)).round()
    table["alcohol"], table["pH"], table["sulphates"] = (
        (8.5 + rng.gamma(3, 0.65, n)).round(1),
        rng.normal(3.31, 0.15, n).round(2),
        rng.lognormal(-0.44, 0.22, n).round(2),
    )
    table["density"] = (
        0.9967 + 2e-4 * table["residual sugar"] - 8e-4 * (table["alcohol"] - 10.4) + rng.normal(0, 0.0009, n)
    ).round(5)
    mark = (
        5.6
        + 0.3 * (table["alcohol"] - 10.4)
        - 1.1 * (table["volatile acidity"] - 0.53)
        + 1.2 * (np.log(table["sulphates"]) + 0.44)
    )
    mark += 0.5 * np.tanh(2 * (table["alcohol"] - 11)) * (table["sulphates"] > 0.6) - 0.005 * (
        table["total sulfur dioxide"] - 46
    )
    table["quality"] = (mark + rng.normal(0, 0.5, n)).round().clip(3, 8).astype(int)
    return _write(table, folder, "winequality.csv", "quality", sep=";")


def credit_default(folder: Path, n: int = 4000) -> Given:
    """Codes as numbers, six months of delays, bills and payments, and one in five who does not pay."""
    rng = np.random.default_rng(24)
    table = pd.DataFrame(
        {"ID": np.arange(1, n + 1), "LIMIT_BAL": (rng.lognormal(11.7, 0.8, n) // 10_000 * 10_000 + 10_000).astype(int)}
    )
    table["SEX"], table["EDUCATION"], table["MARRIAGE"] = (
        rng.integers(1, 3, n),
        rng.choice([1, 2, 3, 4], n, p=[0.35, 0.47, 0.16, 0.02]),
        rng.integers(1, 4, n),
    )
    table["AGE"] = rng.gamma(14, 2.5, n).clip(21, 75).astype(int)
    trouble = rng.normal(size=n)
    for i, month in enumerate((0, 2, 3, 4, 5, 6)):
        late = np.digitize(trouble + rng.normal(0, 0.6, n), [-1.3, -0.6, 1.25, 1.5, 2.2])
        table[f"PAY_{month}"] = np.array([-2, -1, 0, 1, 2, 3])[late] if i == 0 else np.array([-2, -1, 0, 2, 2, 3])[late]
    for i in range(1, 7):
        table[f"BILL_AMT{i}"] = (table["LIMIT_BAL"] * rng.beta(0.7, 1.5, n)).round().astype(int)
        table[f"PAY_AMT{i}"] = np.where(rng.random(n) < 0.2, 0, rng.lognormal(7.5, 1.3, n)).round().astype(int)
    logit = (
        -1.7
        + 0.9 * (table["PAY_0"] > 0)
        + 0.8 * (table["PAY_0"] >= 2)
        + 0.5 * (table["PAY_2"] >= 2)
        - 0.25 * np.log(table["LIMIT_BAL"] / 120_000)
    )
    logit -= 0.12 * np.log1p(table["PAY_AMT1"] / 1000) - 0.4 * (table["PAY_AMT2"] > 5000)
    table["default payment next month"] = _happens(rng, logit).astype(int)
    return _write(table, folder, "credit_default.csv", "default payment next month")


def students(folder: Path, n: int = 800) -> Given:
    """Semicolons and quotes, thirty columns of words and small numbers, and a mark that is zero for some."""
    rng = np.random.default_rng(25)
    table = pd.DataFrame(
        {
            "school": rng.choice(["GP", "MS"], n, p=[0.7, 0.3]),
            "sex": rng.choice(["F", "M"], n),
            "age": rng.integers(15, 20, n),
        }
    )
    jobs = ["at_home", "health", "other", "services", "teacher"]
    table["address"], table["Medu"], table["Fedu"] = (
        rng.choice(["U", "R"], n),
        rng.integers(0, 5, n),
        rng.integers(0, 5, n),
    )
    table["Mjob"], table["Fjob"], table["reason"] = (
        rng.choice(jobs, n),
        rng.choice(jobs, n),
        rng.choice(["course", "home", "other", "reputation"], n),
    )
    table["studytime"], table["failures"] = (
        rng.choice([1, 2, 3, 4], n, p=[0.3, 0.5, 0.13, 0.07]),
        rng.choice([0, 1, 2, 3], n, p=[0.8, 0.12, 0.04, 0.04]),
    )
    for name in ("schoolsup", "famsup", "paid", "activities", "nursery", "higher", "internet", "romantic"):
        table[name] = rng.choice(["yes", "no"], n)
    for name in ("famrel", "freetime", "goout", "Dalc", "Walc", "health"):
        table[name] = rng.integers(1, 6, n)
    table["absences"] = rng.negative_binomial(0.8, 0.15, n)
    mark = (
        11.5
        + 0.45 * (table["Medu"] - 2)
        + 0.6 * (table["studytime"] - 2)
        - 1.9 * table["failures"]
        - 0.4 * (table["Dalc"] - 2)
    )
    mark += (
        1.2 * (table["higher"] == "yes")
        - 1.2 * (table["schoolsup"] == "yes")
        - 0.3 * (table["goout"] - 3)
        + rng.normal(0, 2.4, n)
    )
    table["G3"] = np.where(rng.random(n) < 0.03 + 0.06 * (table["failures"] > 0), 0, mark.round().clip(1, 20)).astype(
        int
    )
    return _write(table, folder, "students.csv", "G3", sep=";", quoting=2)


def wide_house_prices(folder: Path, n: int = 1460) -> Given:
    """Eighty columns, most of them marks of a part of the house, NA where it has none."""
    rng = np.random.default_rng(26)
    marks = np.array(["Po", "Fa", "TA", "Gd", "Ex"])
    quality = (6 + rng.normal(0, 1.4, n)).round().clip(1, 10)
    built = (1970 + 6 * (quality - 6) + rng.normal(0, 25, n)).clip(1875, 2010).round()
    area = (np.exp(7.2 + 0.1 * (quality - 6) + rng.normal(0, 0.27, n))).round()
    hood = rng.integers(0, 25, n)
    table = pd.DataFrame(
        {
            "Id": np.arange(1, n + 1),
            "MSSubClass": rng.choice([20, 30, 50, 60, 120, 160], n),
            "LotArea": rng.lognormal(9.1, 0.5, n).round(),
        }
    )
    table["Neighborhood"], table["OverallQual"], table["YearBuilt"] = [f"Hood{h}" for h in hood], quality, built
    table["YearRemodAdd"] = np.where(rng.random(n) < 0.5, built, rng.integers(1950, 2011, n)).clip(built)
    table["GrLivArea"], table["TotalBsmtSF"] = area, (area * rng.uniform(0.4, 1, n) * (rng.random(n) > 0.03)).round()
    table["1stFlrSF"], table["FullBath"] = (area * rng.uniform(0.5, 1, n)).round(), (area / 900).round().clip(1, 4)
    table["GarageCars"] = (area / 850 + rng.normal(0, 0.5, n)).round().clip(0, 4)
    table["GarageYrBlt"] = np.where(table["GarageCars"] > 0, built, np.nan)
    table["GarageArea"] = (table["GarageCars"] * rng.normal(260, 30, n)).round()
    kitchen = np.digitize(quality + rng.normal(0, 1, n), [2.5, 4, 6.5, 8.5])
    table["KitchenQual"] = marks[kitchen]
    for name, share in (
        ("BsmtQual", 0.03),
        ("FireplaceQu", 0.47),
        ("GarageQual", 0.06),
        ("PoolQC", 0.995),
        ("Fence", 0.8),
        ("ExterQual", 0),
        ("HeatingQC", 0),
    ):
        level = np.digitize(quality + rng.normal(0, 2, n), [2.5, 4, 6.5, 8.5])
        table[name] = np.where(rng.random(n) < share, None, marks[level])
    table["Alley"] = np.where(rng.random(n) < 0.93, None, rng.choice(["Grvl", "Pave"], n))
    table["Utilities"], table["Street"] = (
        np.where(rng.random(n) < 0.001, "NoSeWa", "AllPub"),
        np.where(rng.random(n) < 0.005, "Grvl", "Pave"),
    )
    table["LotFrontage"] = np.where(
        rng.random(n) < 0.18, np.nan, (np.sqrt(table["LotArea"]) * 0.7 + rng.normal(0, 9, n)).round()
    )
    for i in range(30):
        table[f"Style{i}"] = rng.choice([f"s{i}a", f"s{i}b", f"s{i}c"], n, p=[0.8, 0.15, 0.05])
    for i in range(20):
        table[f"Porch{i}"] = np.where(rng.random(n) < 0.6, 0, rng.gamma(2, 60, n).round())
    log = (
        10.6
        + 0.09 * quality
        + 0.42 * np.log(area / 1400)
        + 0.0022 * (built - 1970)
        + 0.001 * (table["YearRemodAdd"] - 1985)
        + 1.0
    )
    log += (
        np.random.default_rng(6).normal(0, 0.12, 25)[hood]
        + 0.05 * table["GarageCars"]
        + 0.05 * (kitchen - 2)
        + 0.0001 * table["TotalBsmtSF"]
    )
    log += 0.06 * np.log(table["LotArea"] / 9000) + 0.0002 * table["Porch1"] - 0.06 * (table["Style1"] == "s1c")
    table["SalePrice"] = np.exp(log + rng.normal(0, 0.11, n)).round(-2).astype(int)
    return _write(table, folder, "wide_house_prices.csv", "SalePrice", na_rep="NA")


MORE_LOOKALIKES: dict[str, Callable[..., Given]] = {
    f.__name__: f for f in (used_cars, bikes, wine_quality, credit_default, students, wide_house_prices)
}
