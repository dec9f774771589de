"""Fine-tuning: learns what frozen features lack, by a protocol that leaves the encoder and the test images alone."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import command
from torch import nn

import infomax as im
from infomax import ui
from infomax.data import from_tensors
from infomax.evaluation import Finetunes, Probes, finetune, probe_all
from infomax.evaluation.features import features


def images(train: int, test: int, labels: bool = True) -> Any:
    """Two classes of 8 x 8 images that differ in how two bright spots lie to each other, not in how bright they are."""
    generator = torch.Generator().manual_seed(0)
    n = train + test
    y = torch.arange(n) % 2
    x = torch.randint(0, 60, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    at = torch.randint(0, 7, (n, 2), generator=generator)
    for i in range(n):
        row, column = at[i].tolist()
        x[i, 0, row, column] = 255
        x[i, 0, row + int(y[i]), column + 1 - int(y[i])] = 255  # below, or to the right
    given = (y[:train], y[train:]) if labels else (None, None)
    return from_tensors(x[:train], given[0], x[train:], given[1], name="spots")


class Net(nn.Module):
    num_features = 4

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.drop = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.1)

    def forward(self, x):
        return self.drop(self.norm(self.conv(x)).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def tuned():
    data, net = images(240, 100), Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.conv.weight.requires_grad_(False)  # a frozen part is trained all the same
    state = torch.random.get_rng_state()
    found = im.probe(net, data, finetune=True)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.conv.weight.requires_grad and net.training
    return data, net, found


@pytest.mark.slow
def test_all_weights_learn_what_frozen_features_lack(tuned):
    _, _, found = tuned
    told = found.finetuned
    assert told is not None and told.accuracy > found.accuracy + 0.1 and told.accuracy > 0.9
    for value, (low, high) in (
        (told.accuracy, told.accuracy_interval), (told.balanced, told.balanced_interval),
        (told.shots_10, told.shots_10_interval),
    ):  # fmt: skip
        assert low < value < high
    assert told.balanced == pytest.approx(told.accuracy), "classes are even"
    assert told.protocol["rate"] in told.protocol["rates"] and len(told.protocol["shots_10"]["accuracies"]) == 5
    assert "fine-tuned" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(tuned):
    data, net, found = tuned
    assert finetune(net, data) == Finetunes(found.finetuned, None)


@pytest.mark.slow
def test_the_head_starts_as_the_logistic_regression(tuned):
    from infomax.evaluation.finetune import _Job

    data, net, _ = tuned
    plain = im.data.views_for(data).plain
    job: Any = _Job(net, data, plain, data.train.labels.numpy(), 0, torch.device("cpu"), None)
    at = torch.arange(240).numpy()
    answers = features(nn.Sequential(job.encoder, *job._head(at)), data.train, plain).argmax(1)
    accuracy = float((answers == data.train.labels).double().mean())
    assert 0.6 < accuracy < 0.95
    untouched = job.answers(at, data.train, at, 1e-12, 1)
    assert (untouched == answers.numpy()).mean() > 0.95, "BatchNorm's statistics alone move"
    assert float(job.encoder.norm.running_mean.abs().max()) > 0 and not net.norm.running_mean.any()
    assert job.encoder.norm.momentum == net.norm.momentum


@pytest.mark.slow
def test_choices_do_not_depend_on_the_test_images(tuned):
    data, net, found = tuned
    other = from_tensors(
        data.train.images, data.train.labels, data.test.images.flip(0), 1 - data.test.labels, name="spots"
    )
    told = im.probe(net, other, finetune=True).finetuned
    assert told is not None and found.finetuned is not None
    for name in ("rate", "held_out"):
        assert told.protocol[name] == found.finetuned.protocol[name]
    assert told.protocol["shots_10"]["rate"] == found.finetuned.protocol["shots_10"]["rate"]


@pytest.mark.slow
def test_the_table_has_it(tuned, capsys):
    _, _, found = tuned
    ui.print_evaluation(Probes(found, found, None), None)
    out = capsys.readouterr().out
    assert "Fine-tuned, all weights" in out and "all labels" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_what_cannot_be_tuned_is_a_sentence():
    with pytest.raises(im.UserError, match="spots's training set has no labels"):
        finetune(Net(), images(20, 10, labels=False))
    data = images(20, 10)
    alone = from_tensors(data.train.images, [0] * 20, data.test.images, [0] * 10, name="one")
    with pytest.raises(
        im.UserError, match="Every training image has the label 0: fine-tuning needs at least two classes"
    ):
        finetune(Net(), alone)
    few = finetune(Net(), images(24, 10)).trained
    assert few.shots_10 is None and "15 are needed" in few.protocol["shots_10"]["reason"]


@pytest.mark.slow
def test_a_class_of_one_training_image_is_left_out():
    whole = images(24, 10)
    x, y, t, u = whole.train.images, whole.train.labels.clone(), whole.test.images, whole.test.labels.clone()
    y[3] = u[7] = 2
    found = finetune(Net(), from_tensors(x, y, t, u, name="rare", classes=["a", "b", "c"])).trained
    assert found.protocol.pop("left_out") == {"classes": ["c"], "train_images": 1, "test_images": 1}
    kept, asked = y != 2, u != 2
    rest = from_tensors(x[kept], y[kept], t[asked], u[asked], name="rest", classes=["a", "b"])
    assert found.protocol["train_images"] == 23 and "class b has 1" in found.protocol["shots_10"]["reason"]
    without = finetune(Net(), replace(rest, mean=whole.mean, std=whole.std)).trained
    assert found.protocol["held_out"] == without.protocol["held_out"] and found.accuracy == without.accuracy


@pytest.mark.slow
def test_the_command_has_the_untrained_encoder_beside_it(finished, tmp_path):
    ended = command(tmp_path, ["infomax", "probe", str(finished[0]), "--finetune", "--json"])
    assert ended.status == 0, ended.err
    told = json.loads(ended.out)
    assert told["finetuned"]["accuracy"] >= 0 and told["untrained"]["finetuned"]["accuracy"] >= 0
    assert told["pixels"]["finetuned"] is None
    about = im.evaluation.subject(finished[0])
    probed = probe_all(about, finetune=True)
    alone = finetune(about).trained
    assert not isinstance(probed.probes, str) and probed.probes.trained.finetuned == alone
    assert alone.accuracy == told["finetuned"]["accuracy"]
