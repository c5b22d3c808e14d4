"""The table of what is computed in integers says what the runtimes that are installed here do."""

from __future__ import annotations

import json

import pytest

from benchmarks.int8_forms import CONVOLUTIONS, FORMS, RESULT, RUNTIMES, examined, installed

RECORD = json.loads(RESULT.read_text(encoding="utf-8"))


def test_the_table_has_every_form_and_runtime():
    assert RECORD["integers"].keys() == RUNTIMES.keys()
    assert all(list(column) == list(FORMS) for column in RECORD["integers"].values())
    assert len(set(FORMS.values())) == len(FORMS)


@pytest.mark.parametrize("column", [column for column in RUNTIMES if "tensorrt" not in column])
def test_the_table_is_what_is_found_here(column):
    runtime = column.split()[0]
    here, there = installed().get(runtime), RECORD["versions"][runtime]
    if here != there:
        pytest.skip(f"the table is that of {runtime} {there}, installed is {here}")
    assert examined(column) == RECORD["integers"][column]


def test_relu_nets_are_computed_in_integers_by_every_engine():
    engines = [column for column in RUNTIMES if column.endswith("by sr-deploy")]
    titles = [
        title
        for title, form in FORMS.items()
        if form.activation == "Relu" and form.closed and not form.weights_zero
    ]
    assert {RECORD["integers"][column][title] for column in engines for title in titles} == {CONVOLUTIONS}
