"""Dates with the months of other languages are read as those of English, by a table and by a request alike."""

import pandas as pd
import pytest

from mlops_nb.data.column_summary import describe_column
from mlops_nb.data.dates import date_format, dates_of
from mlops_nb.data.dialect import read_times

MONTHS = {
    "German": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "German, cut": "Jan. Feb. Mrz. Apr. Mai Jun. Jul. Aug. Sep. Okt. Nov. Dez.",
    "French": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "French, cut": "janv. févr. mars avr. mai juin juil. août sept. oct. nov. déc.",
    "Spanish": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "Spanish, cut": "ene feb mar abr may jun jul ago sept oct nov dic",
    "Italian": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
    "Italian, cut": "gen feb mar apr mag giu lug ago set ott nov dic",
    "Portuguese": "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
    "Portuguese, cut": "jan fev mar abr mai jun jul ago set out nov dez",
}
FORMS = ["{d}. {m} {y}", "{d} {m} {y}", "{d} de {m} de {y}", "{d}-{m}-{y}", "{d}/{m}/{y}"]


@pytest.mark.slow
@pytest.mark.parametrize("language", MONTHS)
def test_months_of_a_language_are_read_alike_by_a_table_and_by_a_request(language):
    days = pd.date_range("2021-01-01", periods=60, freq="13D")
    for form in FORMS:
        texts = pd.Series([form.format(d=d.day, m=MONTHS[language].split()[d.month - 1], y=d.year) for d in days])
        for written in (texts, texts.str.upper()):
            found = date_format(written)
            assert dates_of(written, found).tolist() == days.tolist(), (form, found)
            assert read_times(written, found).dt.tz_localize(None).tolist() == days.tolist()


def test_date_with_a_weekday_of_another_language_stays_text_with_a_remark():
    texts = pd.Series([f"lundi {1 + i % 28} mars {1980 + i}" for i in range(40)], name="at")
    assert date_format(texts) is None
    assert "in a form that is not read" in describe_column(texts).note


def test_words_that_are_no_months_stay_as_they_are():
    assert date_format(pd.Series(["3 marks 2022", "4 sets 2021"])) is None
