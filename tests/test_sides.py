"""Contracts of every layout of sides: rectangular, with extra columns, many rows to a column, both sides one tensor."""

import dense
import pytest
import torch
from layouts import CRITICS, LAYOUTS, of_matrix
from test_scores import close, leaves

from infomax import objectives
from infomax.scores import Scores
from infomax.scores import dense as small

QUICK = {("extra", "Cosine, learnt"), ("many to one, extra", "Concat"), ("rectangular", "Separable"),
         ("views", "Cosine"), ("two ids, many to one", "matrix"), ("rectangular, repeated", "Bilinear")}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "critic_name"),
    [
        pytest.param(name, critic, marks=[] if (name, critic) in QUICK else pytest.mark.slow)
        for name in LAYOUTS
        for critic in (*CRITICS, "matrix")
    ],
)
@pytest.mark.parametrize("path", ["one tile", "tiles"])
def test_every_layout_has_the_dense_value_and_gradient(monkeypatch, path, name, critic_name):
    layout = LAYOUTS[name]
    if path == "tiles":
        monkeypatch.setattr(small, "KEPT", 0)
    torch.manual_seed(1)
    critic = None if critic_name == "matrix" else CRITICS[critic_name]().double()
    x, y, extra = layout.features()
    if critic is None:
        inputs = leaves(2 * torch.randn(layout.n, layout.m + layout.k, dtype=torch.float64))
        matrix = inputs[0]
    else:
        inputs = leaves(x) if layout.alike else leaves(x, y)
        x, y = inputs[0], inputs[-1]
        matrix = critic(x, y if extra is None else torch.cat([y, extra]))
        inputs += list(critic.parameters())
    where = layout.negative, layout.own, layout.names
    if layout.alike:  # columns are those of other views: Anchor leaves out the first of them
        order = torch.arange(layout.n).roll(layout.n // 2)
        if critic is not None:
            matrix = matrix[:, order]
            where = layout.negative[:, order], torch.arange(layout.n), layout.names[order]
    for text, (value_form, surrogate_form) in dense.FORMS.items():
        if text == "InfoNCE(symmetric=True)" and layout.k:
            continue
        expected = value_form(matrix, *where).detach()
        gradient = torch.autograd.grad(surrogate_form(matrix, *where), inputs, allow_unused=True, retain_graph=True)
        for rows, columns in ((None, None),) if path == "one tile" else ((None, None), (5, None), (7, 4)):
            options = {"rows": rows, "columns": columns}
            if critic is None:
                s = of_matrix(layout, matrix, **options)
            else:
                s = Scores.of(critic, layout.sides(x, y, extra), **options)
            value = objectives.objective(text).double()(s)
            assert close([value], [expected]), (text, rows, columns)
            found = torch.autograd.grad(value, inputs, allow_unused=True)
            assert close(found, gradient), (text, rows, columns)
