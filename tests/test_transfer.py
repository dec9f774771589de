"""A run's encoder on another data set than its own: probed beside that set's baselines, or refused in words."""

import json
import logging

import numpy as np
import pytest
import torch
from conftest import command, write_images
from PIL import Image
from torch import nn

import infomax as im
from infomax import data
from infomax.evaluation import probe_all, subject
from infomax.evaluation.common import require_reads


def saved(folder, encoder, shape):
    """A checkpoint of a model that was trained on images of a shape (c, h, w)."""
    width = im.encoders.features_of(encoder)
    model = im.InfoMax(
        encoder, im.encoders.Projector(width, hidden=4, out=4, norm="layer"), im.Cosine(0.3), im.InfoNCE()
    )
    views = im.data.Views(im.data.Policy(), (0.1,) * shape[0], (0.7,) * shape[0])
    im.checkpoints.save(model, folder, preprocessing={**im.data.describe_views(views), "input_size": shape})
    return folder


def cnn(channels: int):
    return im.encoder("resnet10_small_gn", in_chans=channels, channels=[2, 4, 4, 8], stem_width=2)


def spots(channels: int, side: int, n: int = 90):
    """Images of two classes, bright above or below."""
    y = torch.arange(n) % 2
    x = torch.randint(0, 100, (n, channels, side, side), dtype=torch.uint8)
    x[y == 0, :, : side // 2] += 100
    return im.data.from_tensors(x[:60], y[:60], x[60:], y[60:], name="spots")


def test_another_size_is_said_and_read_with_baselines_of_that_data_set(tmp_path, caplog):
    run, data = saved(tmp_path / "run", cnn(1), (1, 8, 8)), spots(1, 16)
    with caplog.at_level(logging.WARNING, "infomax"):
        found = probe_all(run, data)
    assert "was trained on 8 x 8 pixels and is evaluated on 16 x 16, as spots has them" in caplog.text
    assert not isinstance(found.probes, str) and found.probes.pixels.accuracy > 0.9
    assert found.probes.pixels.protocol["features"] == 256 and found.probes.untrained is not None
    own = subject(run, data)
    assert (own.views.mean, own.views.std) == ((0.1,), (0.7,)), "normalised as in its training"  # type: ignore[union-attr]
    caplog.clear()
    subject(run, spots(1, 8))
    assert caplog.text == ""


def test_other_channels_are_refused_in_words(tmp_path):
    grey, colour = saved(tmp_path / "grey", cnn(1), (1, 8, 8)), saved(tmp_path / "colour", cnn(3), (3, 8, 8))
    with pytest.raises(im.UserError, match=r"images of 1 channel, and those of spots have 3 channels: .* grey images"):
        subject(grey, spots(3, 8))
    with pytest.raises(im.UserError, match=r"of 3 channels, and those of spots have 1 channel: .* colour images"):
        subject(colour, spots(1, 8))
    with pytest.raises(im.UserError, match="was trained on images, and waves:8 holds signals"):
        subject(grey, "waves:8")


def test_a_size_that_the_encoder_does_not_read_is_refused_in_words(tmp_path):
    class Flat(nn.Module):
        num_features = 4

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 4)

        def forward(self, x):
            return self.linear(x.flatten(1))

    from infomax.evaluation.subject import _require_fit

    encoder, plain = Flat().train(), data.views_for(spots(1, 16)).plain
    told = r"trained on 8 x 8 pixels and does not read those of spots, 16 x 16: .*folder:PATH.size=8"
    with pytest.raises(im.UserError, match=told):
        _require_fit(encoder, [1, 8, 8], spots(1, 16), "run", plain)
    assert encoder.training
    _require_fit(encoder, None, spots(1, 16), "an older run that does not say", plain)


def test_a_users_encoder_of_other_images_is_refused_in_words(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from torch import nn\n\ndef colour():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())\n"
    )
    told = "a Sequential, does not read images of 1 channel and 8 x 8 pixels, as spots has them .RuntimeError: .*: give"
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    for asked in (im.probe, im.evaluate, im.evaluation.mutual_information):
        with pytest.raises(im.UserError, match=told):
            asked(encoder, spots(1, 8))
    assert encoder.training
    with pytest.raises(im.UserError, match=told):
        probe_all(f"{file}:colour", spots(1, 8))
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(99, 4))
    with pytest.raises(im.UserError, match=r"3 channels and 8 x 8 pixels.*give it images of the channels and the size"):
        im.probe(narrow, spots(3, 8))
    saved(tmp_path / "run", cnn(3), (3, 8, 8))
    with pytest.raises(
        im.UserError, match="what was trained by them, are for images of 3 channels, and these have 1: give"
    ):
        im.probe(tmp_path / "run", spots(1, 8))


class Odd(nn.Module):
    """Reads what `features` feeds, float32 images, and no constant ones; draws numbers in evaluation mode too."""

    num_features = 4

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        x = (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)
        assert x.isfinite().all()
        return self.conv(x + 0.01 * torch.randn_like(x)).mean((2, 3))


def test_the_image_that_is_tried_first_is_read_as_all_are():
    images = spots(1, 8)
    views = data.views_for(images)
    odd, before = Odd(), torch.random.get_rng_state()
    require_reads(odd, images, views.plain)
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(im.UserError, match="does not read images of 1 channel"):
        require_reads(nn.Conv2d(1, 4, 3).bfloat16(), images, views.plain)  # which features, float32, would not fit


@pytest.mark.slow
@pytest.mark.parametrize("asked", [["probe"], ["estimate"], ["report", "--output", "page.html"]])
def test_commands_refuse_a_users_encoder_of_other_images(tmp_path, asked):
    (tmp_path / "own.py").write_text("from torch import nn\n\nown = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())\n")
    ended = command(tmp_path, ["infomax", *asked, "own.py:own", "--dataset", "digits"])
    assert ended.status == 2 and "Traceback" not in ended.err and not (tmp_path / "page.html").exists()
    assert "does not read images of 1 channel and 8 x 8 pixels, as digits has them" in " ".join(ended.err.split())


@pytest.mark.slow
def test_the_command_probes_another_folder(finished, tmp_path):
    other = write_images(tmp_path / "other", classes=3, each=40, side=12)
    ended = command(tmp_path, ["infomax", "probe", str(finished[0]), "--dataset", f"folder:{other}", "--json"])
    assert ended.status == 0, ended.err
    told = json.loads(ended.out)
    assert told["protocol"]["classes"] == 3 and told["pixels"]["protocol"]["features"] == 144
    assert told["untrained"]["protocol"]["test_images"] == 24
    for number in range(20):
        (tmp_path / "colour" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / "colour" / str(number % 2) / f"{number}.png")
    ended = command(tmp_path, ["infomax", "probe", str(finished[0]), "--dataset", f"folder:{tmp_path / 'colour'}"])
    assert ended.status == 2 and "3 channels: give a data set of 1 channel" in " ".join(ended.err.split())
