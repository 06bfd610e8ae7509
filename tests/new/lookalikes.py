"""Look-alikes of public tables: the same names, kinds and dirt of their columns, with invented rows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from tests.new.tables import Given


def _happens(rng, logit) -> np.ndarray:
    return rng.random(len(logit)) < 1 / (1 + np.exp(-np.asarray(logit, dtype=float)))


def _write(table: pd.DataFrame, folder: Path, name: str, target: str, **options) -> Given:
    table.to_csv(folder / name, **({"index": False} | options))
    return Given(name, target)


def titanic(folder: Path, n: int = 891) -> Given:
    """Ids, names with commas and quotes, ticket codes, mostly missing cabins."""
    rng = np.random.default_rng(11)
    pclass, female = rng.choice([1, 2, 3], n, p=[0.24, 0.21, 0.55]), rng.random(n) < 0.35
    age = rng.gamma(5, 6, n).clip(0.4, 80).round()
    title = np.where(female, np.where(age > 25, "Mrs.", "Miss."), np.where(age < 14, "Master.", "Mr."))
    surname = rng.choice(["Braund", "O'Brien", "Heikkinen", "Allen", "McCarthy", "Palsson", "Vestroem"], n)
    table = pd.DataFrame({"PassengerId": np.arange(1, n + 1)})
    family = rng.choice(5, n, p=[0.6, 0.2, 0.1, 0.06, 0.04])
    logit = 2.6 * female - 0.9 * (pclass - 2) + 2.2 * ((age < 14) & (pclass < 3)) - 0.6 * (family > 2)
    table["Survived"] = _happens(rng, logit - 1.3 - 1.1 * (female & (pclass == 3))).astype(int)
    table["Pclass"] = pclass
    table["Name"] = [f'{s}, {t} William "Bill" {i % 97}' for i, (s, t) in enumerate(zip(surname, title, strict=True))]
    table["Sex"], table["Age"] = np.where(female, "female", "male"), np.where(rng.random(n) < 0.2, np.nan, age)
    table["SibSp"], table["Parch"] = family // 2, family - family // 2
    table["Ticket"] = [f"{rng.choice(['A/5 ', 'PC ', 'STON/O2. ', ''])}{t}" for t in rng.integers(2000, 400000, n)]
    table["Fare"] = (rng.lognormal(2.2, 0.5, n) * (4 - pclass) * (1 + family)).round(4)
    table["Cabin"] = [
        f"{rng.choice(list('ABCDE'))}{i % 120}" if rng.random() < 0.6 - 0.2 * p else None for i, p in enumerate(pclass)
    ]
    table["Embarked"] = rng.choice(["S", "C", "Q", None], n, p=[0.72, 0.19, 0.088, 0.002])
    return _write(table, folder, "titanic.csv", "Survived")


def telco(folder: Path, n: int = 3000) -> Given:
    """Blanks among numbers, an id, a total that is nearly a product, Yes and No in many columns."""
    rng = np.random.default_rng(12)
    tenure = rng.choice(73, n, p=np.r_[0.002, np.full(72, 0.998 / 72)])
    contract = rng.choice(["Month-to-month", "One year", "Two year"], n, p=[0.55, 0.21, 0.24])
    internet = rng.choice(["DSL", "Fiber optic", "No"], n, p=[0.34, 0.44, 0.22])
    monthly = (
        (20 + 30 * (internet == "DSL") + 55 * (internet == "Fiber optic") + rng.normal(0, 8, n)).clip(18.25).round(2)
    )
    table = pd.DataFrame(
        {"customerID": [f"{rng.integers(1000, 9999)}-{''.join(rng.choice(list('ABCDEFGH'), 5))}" for _ in range(n)]}
    )
    table["gender"], table["SeniorCitizen"] = rng.choice(["Male", "Female"], n), (rng.random(n) < 0.16).astype(int)
    table["Partner"], table["Dependents"] = rng.choice(["Yes", "No"], n), rng.choice(["Yes", "No"], n, p=[0.3, 0.7])
    table["tenure"], table["InternetService"], table["Contract"] = tenure, internet, contract
    table["OnlineSecurity"] = np.where(internet == "No", "No internet service", rng.choice(["Yes", "No"], n))
    table["PaymentMethod"] = rng.choice(
        ["Electronic check", "Mailed check", "Bank transfer (automatic)", "Credit card (automatic)"], n
    )
    table["MonthlyCharges"] = monthly
    total = (monthly * tenure * rng.normal(1, 0.03, n)).round(2)
    table["TotalCharges"] = [" " if t == 0 else str(v) for t, v in zip(tenure, total, strict=True)]
    logit = -0.7 - 0.035 * tenure + 1.4 * (contract == "Month-to-month") + 0.9 * (internet == "Fiber optic")
    logit += 0.4 * (table["PaymentMethod"] == "Electronic check") - 0.5 * (table["OnlineSecurity"] == "Yes")
    table["Churn"] = np.where(_happens(rng, logit), "Yes", "No")
    return _write(table, folder, "telco.csv", "Churn")


def german_credit(folder: Path, n: int = 1000) -> Given:
    """Codes in place of words, no header, blanks between values."""
    rng = np.random.default_rng(13)
    table = pd.DataFrame({"checking": rng.choice(["A11", "A12", "A13", "A14"], n, p=[0.27, 0.27, 0.06, 0.4])})
    table["months"], table["history"] = (
        rng.choice([6, 12, 18, 24, 36, 48], n),
        rng.choice(["A30", "A31", "A32", "A33", "A34"], n),
    )
    table["purpose"] = rng.choice(["A40", "A41", "A42", "A43", "A46", "A49", "A410"], n)
    table["amount"] = (rng.lognormal(7, 0.6, n) * (table["months"] / 20) ** 0.6).round().astype(int)
    table["savings"], table["rate"] = (
        rng.choice(["A61", "A62", "A63", "A65"], n, p=[0.6, 0.1, 0.1, 0.2]),
        rng.integers(1, 5, n),
    )
    table["age"] = rng.gamma(9, 4, n).clip(19, 75).astype(int)
    logit = (
        -1.7
        + 0.03 * table["months"]
        + 1.1 * table["checking"].isin(["A11", "A12"])
        + 0.6 * table["history"].isin(["A30", "A31"])
    )
    logit += 1e-4 * table["amount"] - 0.02 * (table["age"] - 36) - 0.5 * table["savings"].isin(["A65"])
    table["column_9"] = np.where(_happens(rng, logit), 2, 1)
    return _write(table, folder, "german_credit.csv", "column_9", header=False)


def house_prices(folder: Path, n: int = 1200) -> Given:
    """NA for "there is none", years, codes of classes, a skewed price."""
    rng = np.random.default_rng(14)
    quality, area = (
        rng.choice(10, n, p=[0.01, 0.01, 0.02, 0.08, 0.27, 0.26, 0.21, 0.1, 0.03, 0.01]) + 1,
        rng.lognormal(7.25, 0.33, n).round(),
    )
    built = rng.integers(1900, 2010, n)
    table = pd.DataFrame({"Id": np.arange(1, n + 1), "MSSubClass": rng.choice([20, 30, 50, 60, 90, 120], n)})
    table["MSZoning"] = rng.choice(["RL", "RM", "FV", "C (all)"], n, p=[0.79, 0.15, 0.05, 0.01])
    table["LotFrontage"] = np.where(rng.random(n) < 0.18, np.nan, rng.normal(70, 20, n).clip(21).round())
    table["LotArea"] = rng.lognormal(9.1, 0.5, n).round().astype(int)
    table["Alley"] = np.where(rng.random(n) < 0.93, None, "Grvl")
    table["Neighborhood"] = rng.choice([f"Hood{i}" for i in range(24)], n)
    hood = table["Neighborhood"].str[4:].astype(int)
    table["OverallQual"], table["YearBuilt"], table["YrSold"] = quality, built, rng.integers(2006, 2011, n)
    table["PoolQC"], table["Fireplaces"] = None, rng.poisson(0.6, n)
    table["GrLivArea"], table["GarageCars"] = area.astype(int), rng.choice(4, n, p=[0.06, 0.25, 0.57, 0.12])
    log = (
        8.6
        + 0.1 * quality
        + 0.38 * np.log(area)
        + 0.0035 * (built - 1970)
        + 0.06 * table["GarageCars"]
        + 0.011 * (hood - 12)
    )
    table["SalePrice"] = np.exp(log + 0.04 * np.log(table["LotArea"]) + rng.normal(0, 0.13, n)).round(-2).astype(int)
    return _write(table, folder, "house_prices.csv", "SalePrice", na_rep="NA")


def adult(folder: Path, n: int = 6000) -> Given:
    """Blanks before values, ? for what is missing, a weight that says nothing, two columns that say the same."""
    rng = np.random.default_rng(15)
    levels = ["HS-grad", "Some-college", "Bachelors", "Masters", "11th", "Doctorate"]
    level = rng.choice(6, n, p=[0.35, 0.25, 0.2, 0.08, 0.1, 0.02])
    table = pd.DataFrame({"age": rng.gamma(8, 4.8, n).clip(17, 90).astype(int)})
    table["workclass"] = rng.choice(["Private", "Self-emp-not-inc", "Local-gov", "?"], n, p=[0.75, 0.1, 0.1, 0.05])
    table["fnlwgt"], table["education"] = rng.lognormal(12, 0.5, n).astype(int), np.array(levels)[level]
    years = np.array([9, 10, 13, 14, 7, 16])[level]
    table["education-num"] = years
    married = rng.random(n) < 0.47
    table["marital-status"] = np.where(married, "Married-civ-spouse", rng.choice(["Never-married", "Divorced"], n))
    table["occupation"] = rng.choice(
        ["Craft-repair", "Exec-managerial", "Sales", "Adm-clerical", "?"], n, p=[0.27, 0.27, 0.2, 0.2, 0.06]
    )
    table["capital-gain"] = np.where(rng.random(n) < 0.08, rng.lognormal(8.5, 1, n).clip(100, 99999).astype(int), 0)
    table["hours-per-week"] = np.where(rng.random(n) < 0.47, 40, rng.normal(40, 14, n).clip(1, 99).astype(int))
    logit = (
        -8
        + 0.33 * years
        + 2.2 * married
        + 0.8 * (table["occupation"] == "Exec-managerial")
        + 0.03 * table["hours-per-week"]
    )
    logit += 0.05 * (table["age"] - 20) - 0.001 * (table["age"] - 40) ** 2 + 4 * (table["capital-gain"] > 5000)
    table["income"] = np.where(_happens(rng, logit), ">50K", "<=50K")
    texts = table.astype(str).apply(lambda column: " " + column)
    return _write(texts, folder, "adult.csv", "income")


def insurance(folder: Path, n: int = 1338) -> Given:
    """A quantity with a strong interaction."""
    rng = np.random.default_rng(16)
    table = pd.DataFrame({"age": rng.integers(18, 65, n), "sex": rng.choice(["male", "female"], n)})
    table["bmi"], table["children"] = (
        rng.normal(30.7, 6, n).clip(16).round(3),
        rng.choice(6, n, p=[0.43, 0.24, 0.18, 0.12, 0.02, 0.01]),
    )
    table["smoker"] = np.where(rng.random(n) < 0.2, "yes", "no")
    table["region"] = rng.choice(["southwest", "southeast", "northwest", "northeast"], n)
    smokes, heavy = table["smoker"] == "yes", table["bmi"] > 30
    cost = (
        250 * (table["age"] - 18)
        + 3 * (table["age"] - 18) ** 1.6
        + 1200
        + 500 * table["children"]
        + 13000 * smokes
        + 19000 * (smokes & heavy)
    )
    table["charges"] = (cost * rng.lognormal(0, 0.1, n) + (rng.random(n) < 0.1) * rng.gamma(2, 5000, n)).round(4)
    return _write(table, folder, "insurance.csv", "charges")


def airbnb(folder: Path, n: int = 2500) -> Given:
    """Prices in clothes with outliers, free text, a host's id that comes again, dates that may be missing."""
    rng = np.random.default_rng(17)
    table = pd.DataFrame({"id": rng.permutation(10**6)[:n] + 2539})
    room = rng.choice(["Entire home/apt", "Private room", "Shared room"], n, p=[0.52, 0.45, 0.03])
    hood = rng.choice(5, n, p=[0.44, 0.41, 0.12, 0.02, 0.01])
    quarter = 44 * hood + rng.geometric(0.06, n) % 44
    words = [
        "Cozy",
        "Sunny",
        "LUXURY",
        "loft",
        "near subway",
        "w/ terrace",
        "heart of",
        "\u2605 Spacious",
        "2BR",
        "studio",
    ]
    table["name"] = [" ".join(rng.choice(words, 4)) + f" {i}" for i in range(n)]
    table["host_id"] = rng.choice(rng.integers(10**3, 10**8, 900), n)
    table["neighbourhood_group"] = np.array(["Manhattan", "Brooklyn", "Queens", "Bronx", "Staten Island"])[hood]
    table["neighbourhood"] = [f"Quarter {q}" for q in quarter]
    table["latitude"], table["longitude"] = (
        (40.73 + rng.normal(0, 0.05, n)).round(5),
        (-73.95 + rng.normal(0, 0.04, n)).round(5),
    )
    table["room_type"], table["minimum_nights"] = (
        room,
        rng.choice([1, 2, 3, 5, 7, 30, 365], n, p=[0.3, 0.25, 0.2, 0.1, 0.05, 0.09, 0.01]),
    )
    table["number_of_reviews"] = rng.negative_binomial(0.5, 0.02, n)
    last = pd.Timestamp("2019-07-08") - pd.to_timedelta(rng.gamma(1, 150, n).round(), "D")
    table["last_review"] = np.where(table["number_of_reviews"] == 0, None, last.strftime("%Y-%m-%d"))
    table["reviews_per_month"] = np.where(
        table["number_of_reviews"] == 0, np.nan, (table["number_of_reviews"] / rng.gamma(2, 12, n).clip(1)).round(2)
    )
    table["availability_365"] = np.where(rng.random(n) < 0.36, 0, rng.integers(1, 366, n))
    log = (
        4.3
        + 0.75 * (room == "Entire home/apt")
        - 0.4 * (room == "Shared room")
        - 0.22 * hood
        + 0.3 * table["name"].str.contains("LUXURY")
    )
    log += np.random.default_rng(7).normal(0, 0.2, 220)[quarter]
    log += 2 * (table["longitude"] < -73.98) * 0.2 + 0.0006 * table["availability_365"]
    price = np.exp(log + rng.normal(0, 0.45, n)) * np.where(rng.random(n) < 0.004, 15, 1)
    table["price"] = [f"${v:,.2f}" for v in price]
    return _write(table, folder, "airbnb.csv", "price")


def play_store(folder: Path, n: int = 2500) -> Given:
    """Numbers in clothes of several kinds, dates in words, repeated rows, a rating that little explains."""
    rng = np.random.default_rng(18)
    table = pd.DataFrame(
        {
            "App": [
                f"{rng.choice(['Photo', 'Draw', 'Chess', 'Bank', 'Fit'])} {rng.choice(['Pro', 'Lite', 'HD'])} {i}"
                for i in range(n)
            ]
        }
    )
    table["Category"] = rng.choice(
        ["FAMILY", "GAME", "TOOLS", "MEDICAL", "BUSINESS", "DATING"], n, p=[0.3, 0.25, 0.2, 0.1, 0.1, 0.05]
    )
    reviews = rng.lognormal(8, 3, n).round().astype(int)
    table["Reviews"] = reviews
    size = rng.lognormal(2.6, 1, n)
    table["Size"] = [
        ("Varies with device" if rng.random() < 0.15 else f"{s:.1f}M" if s > 1 else f"{1000 * s:.0f}k") for s in size
    ]
    steps = np.array([1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000])
    installs = steps[np.clip(np.log10(reviews * 30 + 1).round().astype(int), 0, 7)]
    table["Installs"] = [f"{i:,}+" for i in installs]
    paid = rng.random(n) < 0.08
    table["Type"] = np.where(paid, "Paid", "Free")
    table["Price"] = [f"${rng.choice([0.99, 2.99, 4.99])}" if p else "0" for p in paid]
    table["Content Rating"] = rng.choice(
        ["Everyone", "Teen", "Mature 17+", "Everyone 10+"], n, p=[0.8, 0.12, 0.04, 0.04]
    )
    days = pd.Timestamp("2018-08-08") - pd.to_timedelta(rng.gamma(1, 250, n).round(), "D")
    table["Last Updated"] = [f"{d:%B} {d.day}, {d.year}" for d in days]
    table["Android Ver"] = rng.choice(["4.1 and up", "4.0.3 and up", "5.0 and up", "Varies with device"], n)
    rating = (
        3.75
        + 0.045 * np.log1p(reviews)
        - 0.0004 * (pd.Timestamp("2018-08-08") - days).days
        - 0.25 * (table["Category"] == "DATING")
    )
    rating = (rating + rng.normal(0, 0.4, n)).clip(1, 5).round(1)
    table["Rating"] = np.where(rng.random(n) < 0.13, np.nan, rating)
    return _write(pd.concat([table, table.head(60)]), folder, "play_store.csv", "Rating", na_rep="NaN")


def fraud(folder: Path, n: int = 40_000) -> Given:
    """One row in three hundred is positive: components, seconds and an amount."""
    rng = np.random.default_rng(19)
    positive = rng.random(n) < 0.0035
    table = pd.DataFrame({"Time": np.sort(rng.integers(0, 172_792, n)).astype(float)})
    typical = positive & (rng.random(n) < 0.75)
    for i in range(1, 29):
        shift = {1: -2.5, 3: -3.5, 4: 2.5, 10: -3.0, 12: -3.5, 14: -4.0, 17: -2.0}.get(i, 0)
        table[f"V{i}"] = rng.standard_t(5, n) * (1 + 0.6 * positive) + shift * typical
    table["Amount"] = rng.lognormal(3, 1.6, n).round(2)
    table["Class"] = positive.astype(int)
    return _write(table.round(6), folder, "fraud.csv", "Class")


def sms(folder: Path, n: int = 3000) -> Given:
    """Short texts in latin-1 with empty columns behind them, of which one in eight is spam."""
    rng = np.random.default_rng(20)
    common = [
        "call",
        "me",
        "now",
        "you",
        "to",
        "u",
        "for",
        "the",
        "your",
        "a",
        "ur",
        "on",
        "in",
        "new",
        "free",
        "text",
        "no",
        "get",
    ]
    own = {
        "ham": [
            "ok",
            "lol",
            "home",
            "later",
            "love",
            "da",
            "sorry",
            "dinner",
            "going",
            "still",
            "ill",
            "wat",
            ":)",
            "class",
            "sleep",
            "mum",
        ],
        "spam": [
            "prize",
            "claim",
            "txt",
            "\u00a31000",
            "won",
            "mobile",
            "stop",
            "150ppm",
            "urgent!",
            "cash",
            "reply",
            "www.ringtones.co.uk",
            "18+",
        ],
    }
    rare = [
        f"{rng.choice(['re', 'un', 'mo', 'ta', 'li'])}{rng.choice(['ka', 'ber', 'ning', 'th'])}{i}" for i in range(1500)
    ]
    label, lines = np.where(rng.random(n) < 0.134, "spam", "ham"), []
    for kind in label:
        count = rng.integers(14, 26) if kind == "spam" else 1 + rng.poisson(9)
        share = rng.beta(1.5, 6) if kind == "spam" else rng.beta(2, 6)
        source = rng.choice(3, count, p=[share, 0.6 * (1 - share), 0.4 * (1 - share)])
        lines.append(" ".join(rng.choice([own[kind], common, rare][s]) for s in source))
    table = pd.DataFrame({"v1": label, "v2": lines})
    for name in ("", " ", "  "):
        table[name] = None
    return _write(table, folder, "spam.csv", "v1", encoding="latin-1")


LOOKALIKES: dict[str, Callable[..., Given]] = {
    f.__name__: f
    for f in (titanic, telco, german_credit, house_prices, adult, insurance, airbnb, play_store, fraud, sms)
}
