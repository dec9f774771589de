"""The benchmark of encoders whose MI is known: its truths are those of formulas, and it measures and resumes."""

import math

import pytest
import torch

from infomax.benchmarks import cells, encoders
from infomax.benchmarks.encoders import Mixture


def mixture(classes=1, columns=3, spread=0.0):
    """Of normal features whose moments are known; class means lie `spread` apart."""
    means = spread * torch.eye(columns, dtype=torch.float64)[:classes]
    eye = torch.eye(columns, dtype=torch.float64).expand(classes, columns, columns)
    return Mixture(means, 0.75 * eye, 0.25 * eye)


def test_truths_of_one_class_are_the_gaussian_formulas():
    generator = torch.Generator().manual_seed(0)
    one = mixture()
    fresh = one.drawn(40_000, generator)
    assert one.of_label(fresh) == pytest.approx(0, abs=1e-9)
    # Three columns of variance 1, noise of variance .25: 3/2 log(1 + 1 / .25); across views correlation .75 / 1.25.
    assert one.of_noise(fresh, 0.5, generator) == pytest.approx(1.5 * math.log(5), abs=0.03)
    assert one.of_views(fresh, 0.5, generator) == pytest.approx(-1.5 * math.log(1 - 0.6**2), abs=0.02)


def test_classes_far_apart_are_their_entropy():
    generator = torch.Generator().manual_seed(1)
    three = mixture(3, spread=50.0)
    fresh = three.drawn(20_000, generator)
    assert three.of_label(fresh) == pytest.approx(math.log(3), abs=1e-6)
    assert three.of_noise(fresh, 0.5, generator) == pytest.approx(math.log(3) + 1.5 * math.log(5), abs=0.04)
    assert three.of_views(fresh, 0.5, generator) == pytest.approx(math.log(3) - 1.5 * math.log(0.64), abs=0.04)


def test_a_mixture_has_the_moments_of_its_features():
    generator = torch.Generator().manual_seed(2)
    names = torch.arange(400) % 2
    centres = 3.0 * names[:, None].double() + torch.randn(400, 4, generator=generator, dtype=torch.float64)
    rows = centres[:, None] + 0.5 * torch.randn(400, 8, 4, generator=generator, dtype=torch.float64)
    made = Mixture.of(rows.float(), names, 4)
    ratio = made.within.diagonal(dim1=1, dim2=2).mean() / made.between.diagonal(dim1=1, dim2=2).mean()
    assert float(ratio) == pytest.approx(0.25, rel=0.15)
    drawn = made.drawn(20_000, generator)
    assert float(drawn[0][drawn[2] == 0].mean(0).sub(made.means[0]).abs().max()) < 0.05


def test_what_cannot_be_measured_is_a_sentence():
    from infomax.errors import UserError

    with pytest.raises(UserError, match="numbers that rise"):
        encoders.command(epochs=(2, 1))


@pytest.mark.slow
def test_an_encoder_is_measured_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encoders, "PAIRS", (300, 60, 100))
    options = {"seeds": 1, "epochs": (0, 1), "data": "scenes:640", "output": tmp_path, "json": True}
    encoders.command(**options)
    first = capsys.readouterr().out
    monkeypatch.setattr(cells, "_result", None)  # nothing is left to work out
    encoders.command(**options)
    assert capsys.readouterr().out == first
    text = (tmp_path / "encoders.md").read_text()
    for name in ("I(label; Z)", "I(Z; Z + noise)", "I(Z1 + noise; Z2 + noise)", "I(J; Z) among 64"):
        assert name in text
    assert "2 encoders" in text and " of 2" in text
