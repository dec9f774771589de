"""Contracts over the registry of estimators: their texts, what they share, and their values."""

import pytest

import infomax as im
from infomax import estimation
from infomax.estimation.rows import Estimator


@pytest.mark.parametrize("name", estimation.registry)
def test_the_text_of_a_row_parses_back(name):
    row = estimation.row(name)
    assert isinstance(row, Estimator)
    assert repr(estimation.row(repr(row))) == repr(row)
    assert estimation.row(row) is row


def test_rows_that_read_one_critic_say_so():
    texts = ("JS", "JSPlugin", "SMILE(tau=1)", "SMILE(tau=inf)")
    assert len({estimation.row(text).trained_by for text in texts}) == 1
    apart = ("JS", "NWJ", "DV", "MINE", "MINE(decay=0.5)", "InfoNCE", "CopulaJS")
    assert len({estimation.row(text).trained_by for text in apart}) == len(apart)


def test_an_objective_is_a_row_by_itself():
    row = estimation.row(im.SMILE(tau=3.0))
    assert (repr(row), row.leans_on, row.fixes_constant) == ("SMILE(tau=3.0)", "partition", True)
    assert estimation.row("InfoNCE").leans_on == "rows"
