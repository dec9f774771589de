"""What scores, critics, objectives and models refuse of a script's calls: a sentence, and none of torch's words."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest
import shapecheck
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import nn

import infomax as im
from infomax import critics, encoders, objectives
from infomax.errors import NonFinite
from infomax.spelling import parse

torch.manual_seed(0)
X, Y = torch.randn(8, 4), torch.randn(8, 4)
VIEWS, IDS = [torch.rand(8, 1, 8, 8), torch.rand(8, 1, 8, 8)], torch.arange(8)


def refused(call, *words):
    with pytest.raises(im.UserError) as told:
        call()
    for word in words:
        assert re.search(word, str(told.value)), (word, str(told.value))


@pytest.mark.parametrize("n", [8, 1200], ids=["dense", "tiled"])
@pytest.mark.parametrize("objective", [im.InfoNCE(), im.NWJ(), im.SMILE()], ids=repr)
def test_sides_of_two_dtypes_are_scored_in_the_wider(objective, n):
    x, y = torch.randn(n, 4, dtype=torch.float64), torch.randn(n, 4, dtype=torch.float64)
    x = x.float().double()
    want = objective(im.Scores(im.Cosine(0.5), x, y)).detach()
    narrow = x.float().requires_grad_()
    value = objective(im.Scores(im.Cosine(0.5), narrow, y))
    assert value.dtype == torch.float64
    torch.testing.assert_close(value.detach(), want, rtol=0, atol=1e-6)
    value.backward()
    assert narrow.grad is not None and narrow.grad.dtype == torch.float32 and float(narrow.grad.abs().max()) > 0


@pytest.mark.parametrize("critic", [im.Bilinear(4, 4), im.Separable(4, 4), im.Concat(4, 4)], ids=repr)
def test_features_of_another_dtype_than_the_critic(critic):
    refused(lambda: im.Scores(critic, X.double(), Y.double()), "float32, float64", "dtypes")
    assert im.InfoNCE()(im.Scores(critic.double(), X.double(), Y.double())).dtype == torch.float64


@pytest.mark.parametrize("kind", [im.Bilinear, im.Separable, im.Concat])
@pytest.mark.parametrize("width", [0, -1])
def test_widths_of_a_critic(kind, width):
    refused(lambda: kind(width, 4), f"{kind.__name__}'s dx is how many", re.escape(repr(width)))
    refused(lambda: kind(4, width), f"{kind.__name__}'s dy is how many", re.escape(repr(width)))


def test_rows_without_a_feature():
    refused(lambda: im.Scores(im.Cosine(0.1), X[:, :0], Y[:, :0]), r"\[8, 0\]")


def test_what_is_no_critic():
    refused(lambda: im.Scores(nn.Linear(4, 4), X, Y), "a Linear", "critics.Critic")
    refused(lambda: im.Scores(im.Cosine, X, Y), "the class Cosine")


def test_a_matrix_that_is_given():
    holed = torch.randn(4, 4)
    holed[2, 1] = math.nan
    refused(lambda: im.Scores.from_matrix(holed), "matrix has NaN in 1 of 4 rows", r"\(2\)")
    refused(lambda: im.InfoNCE()(holed), "reads Scores, and not a Tensor", "from_matrix")
    holed[2, 1] = -math.inf  # a pair that cannot be
    assert math.isfinite(float(im.InfoNCE()(im.Scores.from_matrix(holed))))


def test_a_context_of_another_width_than_the_encoder():
    context = encoders.CausalGRU(7, 5)
    cpc = im.CPC(nn.Sequential(nn.Flatten(), nn.Linear(16, 6)), context, im.Bilinear(5, 6), im.InfoNCE(), 1, 4, 2)
    refused(lambda: cpc(VIEWS[:1]), "made for 7 features a place, and is given 6")


@pytest.mark.parametrize(
    "make",
    [
        lambda number: im.Cosine(number(0.2), bias=number(0.5), minimum=number(0.05)),
        lambda number: im.Anchor(number(0.5)),
        lambda number: im.MINE(number(0.5)), lambda number: im.CalibratedNWJ(number(0.5), number(2)),
        lambda number: im.SMILE(number(2)),
    ],
)  # fmt: skip
def test_numpys_numbers_are_spelled_as_pythons(make):
    part = make(np.float64)
    registry = critics.registry if isinstance(part, im.Critic) else objectives.registry
    assert "np." not in repr(part)
    assert repr(parse(repr(part), registry, "part")) == repr(part)


@pytest.mark.parametrize(
    "policy",
    [
        im.data.Policy(scale=(np.float64(0.5), np.float32(1)), rotate=np.float64(10), flip=np.int64(1)),
        im.data.SignalPolicy(crop=[np.float64(0.5), 1.0], jitter=np.float32(0.25)),
    ],
)
def test_views_of_numpys_numbers_are_read_back(policy):
    kinds = {"policy": im.data.Policy, "signalpolicy": im.data.SignalPolicy}
    assert "np." not in repr(policy) and parse(repr(policy), kinds, "policy") == policy


def test_a_baseline_is_loaded_with_its_model(tmp_path):
    def model(baseline):
        return im.InfoMax(encoders.MLP(8, 8, 6), nn.Linear(6, 4), im.Cosine(0.2), im.TUBA(baseline))

    kept = model(nn.Linear(4, 1))
    im.checkpoints.save(kept, tmp_path / "known")
    again = im.load(tmp_path / "known")
    assert isinstance(again.objective.baseline, nn.Linear)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in kept.state_dict().items())
    im.checkpoints.save(model(nn.Sequential(nn.Linear(4, 1))), tmp_path / "unknown")
    refused(lambda: im.load(tmp_path / "unknown"), "Nothing was saved that says how to build the model's objective")


def test_a_description_draws_nothing():
    """Else a run that saves would train otherwise than one that does not."""
    baseline = encoders.Projector(8, hidden=16, out=1)
    model = im.InfoMax(encoders.MLP(8, 8, 6), nn.Linear(6, 8), im.Cosine(0.2), im.TUBA(baseline))
    before = torch.get_rng_state()
    assert im.checkpoints.describe(model)["parts"]["objective"].startswith("TUBA(baseline=Projector(")
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_no_literal_is_named():
    refused(lambda: im.objectives.objective("SMILE(tau=float('inf'))"), re.escape("float('inf') is no number, string"))


def test_what_says_nothing_is_refused():
    refused(lambda: im.critics.ConvSeparable((1, 8, 8), channels=0), "channels is how many features it has, 1 or more")


def test_critics_called_by_themselves_name_what_they_cannot_take():
    for critic in (im.Bilinear(4, 4), im.Separable(4, 4), im.Concat(4, 4)):
        refused(lambda critic=critic: critic(X.double(), Y.double()), "several dtypes, float32, float64")
    holed = X.clone()
    holed[3, 0] = math.nan
    refused(lambda: im.Cosine(0.1)(X.double(), Y), "x is float64 and y is float32")
    refused(lambda: im.Cosine(0.1)(holed, Y), "x has NaN or infinite numbers in 1 of 8 rows", r"\(3\)")
    for critic in (im.Cosine(0.1), im.Bilinear(4, 4), im.Concat(4, 4)):
        refused(lambda critic=critic: im.Scores(critic, X.to_sparse(), Y), "x is a sparse tensor", "to_dense")


def test_ids_and_positives_of_another_kind():
    x, y = torch.randn(2, 4, 3)
    refused(lambda: im.Scores.of(im.Cosine(0.1), im.Sides(x, y, torch.tensor([True, False] * 2))), "and are bool")
    positive = torch.arange(4).to(torch.complex64)
    refused(lambda: im.Scores.of(im.Cosine(0.1), im.Sides(x, y, positive=positive)), "whole numbers", "complex64")


def test_a_baseline_that_cannot_read_rows():
    refused(
        lambda: im.TUBA(nn.Linear(7, 1))(im.Scores(im.Cosine(0.1), X, Y)), "baseline cannot read x, rows of \\[4\\]"
    )
    refused(lambda: im.TUBA(nn.Linear(4, 3))(im.Scores(im.Cosine(0.1), X, Y)), "one number for each of the 8 rows")


class Batches:
    """A loader of one batch, again and again."""

    batch_size = 8

    def __init__(self, *batch):
        self.batch = batch

    def __len__(self):
        return 1

    def at(self, step, rank, world, device):
        return self.batch


def trained(model, batch, parameters=None):
    optimizer = torch.optim.SGD(model.parameters() if parameters is None else parameters, lr=0.1)
    schedule = im.training.warmup_cosine(2)
    return list(im.train(model, Batches(*batch), optimizer, schedule, im.launch.make_accelerator(), steps=2))


def small():
    return im.InfoMax(nn.Sequential(nn.Flatten(), nn.Linear(64, 6)), nn.Linear(6, 4), im.Cosine(0.1), im.InfoNCE())


def test_trainings_that_would_change_nothing():
    refused(lambda: trained(small(), (*VIEWS, IDS), small().parameters()), "no trainable parameter of this model")
    frozen = small()
    for p in frozen.parameters():
        p.requires_grad_(False)
    refused(lambda: trained(frozen, (*VIEWS, IDS)), "No parameter of the model is to be trained")


def test_a_part_of_another_width_is_named_at_the_first_step():
    wide = im.InfoMax(nn.Sequential(nn.Flatten(), nn.Linear(64, 6)), nn.Linear(7, 4), im.Cosine(0.1), im.InfoNCE())
    refused(lambda: trained(wide, (*VIEWS, IDS)), "The projector, a Linear, cannot take rows of 6 numbers")


def test_rows_of_a_batch_that_are_not_finite_are_named():
    holed = VIEWS[1].clone()
    holed[[2, 5], 0, 3, 3] = math.inf
    plain = small()
    before = [p.clone() for p in plain.parameters()]
    with pytest.raises(NonFinite, match=r"step 1: .* Input 2 of the batch has .* in 2 of 8 rows \(2, 5\)\."):
        trained(plain, (VIEWS[0], holed, IDS))
    assert all(torch.equal(p, old) for p, old in zip(plain.parameters(), before, strict=True))


def test_what_a_model_is_called_with_is_looked_at():
    parts = (nn.Sequential(nn.Flatten(), nn.Linear(64, 6)), nn.Linear(6, 4), im.Cosine(0.2), im.InfoNCE())
    holed = [view.clone() for view in VIEWS]
    holed[1][5] = math.inf
    for model in (im.InfoMax(*parts), im.MoCo(*parts, queue=16), im.TwoTower(parts[0], parts[0], parts[1], *parts[1:])):
        refused(lambda model=model: model(holed), "Input 2 of the batch has NaN or infinite numbers in 1 of 8 rows")
        refused(lambda model=model: model([view[:0] for view in VIEWS]), "batch is empty")
        refused(lambda model=model: model(VIEWS, IDS[:6]), r"one number a sample, \[8\], and have shape \[6\]")
        refused(lambda model=model: im.Model.forward(model, VIEWS[0]), "several tensors, and not one")
    refused(lambda: im.InfoMax(*parts)([*VIEWS, VIEWS[0]], IDS[:6]), r"\[8\], and have shape \[6\]")


def test_a_training_without_an_optimiser():
    model = im.InfoMax(nn.Sequential(nn.Flatten(), nn.Linear(64, 6)), nn.Linear(6, 4), im.Cosine(0.2), im.InfoNCE())
    steps = im.train(model, Batches(VIEWS, IDS), None, lambda step: 1.0, im.launch.make_accelerator(), steps=1)
    refused(lambda: list(steps), "optimizer is one of torch.optim")


def test_ids_after_a_sequence_of_views():
    plain = small()
    want = plain(VIEWS, ids=IDS // 2)
    assert torch.equal(plain(VIEWS, IDS // 2), want) and torch.equal(plain(*VIEWS, IDS // 2), want)
    assert not torch.equal(plain(VIEWS), want)


WRONG_KINDS = """
import numpy as np, torch, infomax as im
t, net, cosine, nce = torch.eye(4), torch.nn.Linear(4, 4), im.Cosine(0.1), im.InfoNCE()
calls = [
    (lambda: im.Scores(cosine, t.numpy(), t), "x is a ndarray, and scores are of tensors"),
    (lambda: im.Scores(cosine, t, t.tolist()), "y is a list, and scores are of tensors"),
    (lambda: im.Scores.from_matrix(t.numpy()), "matrix is a ndarray"),
    (lambda: im.Cosine("x"), "temperature must be a positive number, not 'x'"),
    (lambda: im.Cosine(None), "temperature must be a positive number, not None"),
    (lambda: im.Bilinear(4.5, 4), "Bilinear's dx is how many"),
    (lambda: im.Separable(4, "a"), "Separable's dy is how many"),
    (lambda: im.Concat(None, 4), "Concat's dx is how many"),
    (lambda: im.InfoMax(net, net, nce, nce), "critic is an object such as infomax.Cosine(0.1), and not InfoNCE"),
    (lambda: im.InfoMax(net, net, cosine, cosine), "objective is an object such as infomax.InfoNCE(), and not Cosine"),
    (lambda: im.InfoMax(net, net, cosine, im.InfoNCE), "objective is an object such as infomax.InfoNCE(), and not <cl"),
    (lambda: im.InfoMax(net, net, cosine, "InfoNCE()"), "objective is an object such as infomax.InfoNCE(), and not 'I"),
    (lambda: im.InfoMax("resnet18", net, cosine, nce), "encoder is a torch.nn.Module, such as"),
    (lambda: list(im.train(im.InfoMax(net, net, cosine, nce), None, None, None, im.launch.make_accelerator(), steps=1)),
     "A schedule is a function of the step, such as"),
    *((lambda of=of, word=word, wrong=wrong: of(**{word: wrong}), f"{word} must be ")
      for of, word in ((im.SMILE, "tau"), (im.MINE, "decay"), (im.CalibratedNWJ, "limit"), (im.Anchor, "nu"))
      for wrong in ("a", None, [1.0])),
    (lambda: im.InfoMax(net, None, cosine, nce)([t, t]), "There is no projector: give torch.nn.Identity()"),
    (lambda: cosine(t.numpy(), t), "x is a ndarray, and scores are of tensors"),
    (lambda: im.InfoMax(net, net, cosine, nce)([t, t], [0, 1, 2, 3]), "ids is a list, and scores are of tensors"),
    *((lambda learn=learn: im.Cosine(0.1, learn=learn), 'learn is True, False or "bias"')
      for learn in (1, np.True_, "temperature")),
    (lambda: im.InfoMax(net, net, cosine, nce, ntxent="no"), "ntxent is True or False, not 'no'"),
    (lambda: im.InfoMax(net, net, cosine, nce, ring="no"), "ring is True or False"),
    (lambda: im.MoCo(net, net, cosine, nce, shuffle=2), "shuffle is True or False, not 2"),
    (lambda: im.DeepInfoMax(net, net, None, cosine, nce, local="no"), "local is True or False"),
    (lambda: im.InfoNCE(symmetric="yes"), "symmetric is True or False"),
    (lambda: im.Cosine(True), "temperature must be a positive number, not True"),
    (lambda: im.Anchor(nu=True), "nu must be a positive number, and True is not"),
    (lambda: im.Concat(4, 4, layers=True), "Concat needs at least one hidden layer, and layers=True"),
    (lambda: im.InfoMax(None, net, cosine, nce), "There is no encoder: give torch.nn.Identity"),
    (lambda: im.DeepInfoMax(None, net, net, cosine, nce), "There is no encoder"),
    (lambda: im.TwoTower(net, net, net, None, cosine, nce), "There is no projector_y"),
    (lambda: im.CPC(net, None, cosine, nce), "There is no context"),
]
assert im.Bilinear(np.int64(4), 4).dx == 4 and "np." not in repr(im.Cosine(np.float32(0.5)))
for call, sentence in calls:
    try:
        call()
    except im.UserError as error:
        assert str(error).startswith(sentence), str(error)
    else:
        raise AssertionError(sentence)
print(len(calls))
"""


@pytest.mark.slow
def test_things_of_another_kind():
    """In a process of its own, where no hook checks annotations first."""
    done = subprocess.run([sys.executable, "-c", WRONG_KINDS], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and done.stdout == "44\n", done.stderr


class _Broken(im.Model):
    def sides(self, inputs, ids):
        return self.encoder(inputs[0]), inputs[7]


def test_a_model_called_with_what_a_part_cannot_take():
    model = im.InfoMax(encoders.encoder("resnet10_tiny", in_chans=1), nn.Identity(), im.Cosine(0.1), im.SMILE())
    refused(
        lambda: model([torch.rand(8, 3, 8, 8)] * 2), "The encoder, a .* cannot take images of 3x8x8", "Choose another"
    )
    refused(lambda: model([torch.rand(8, 8, 8)] * 2), "The encoder")
    narrow = im.InfoMax(nn.Flatten(), nn.Linear(5, 4), im.Cosine(0.1), im.SMILE())
    refused(lambda: narrow(VIEWS), "The projector, a Linear, cannot take rows of 64 numbers")
    refused(
        lambda: _Broken(im.Cosine(0.1), im.SMILE(), encoder=nn.Flatten())(VIEWS), "The model, a _Broken", "raised that"
    )
    assert narrow.training and model.training


class _InTraining(nn.Flatten):
    def forward(self, x):
        if self.training:
            raise ValueError("more than 1 value per channel")
        return super().forward(x)


def test_what_fails_in_training_mode_alone_stays_as_it_is():
    model = im.InfoMax(_InTraining(), nn.Identity(), im.Cosine(0.1), im.SMILE())
    with pytest.raises(ValueError, match="more than 1 value"):
        model(VIEWS)


def test_given_scores_that_are_infinite():
    matrix = torch.zeros(4, 4)
    matrix[1, 2] = math.inf
    refused(lambda: im.Scores.from_matrix(matrix), r"matrix has \+inf in 1 of 4 rows \(1\)")
    assert im.InfoNCE()(im.Scores.from_matrix(-matrix)).isfinite(), "a pair that cannot be"


class Cut(nn.Module):
    """An encoder whose features are cut from its weights."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(64, 8)

    def forward(self, images):
        return self.inner(images.flatten(1)).detach()


def test_a_loss_without_a_gradient_is_a_sentence():
    model = im.InfoMax(Cut(), nn.Identity(), im.Cosine(0.2), im.InfoNCE())
    before = model.encoder.inner.weight.clone()  # pyright: ignore
    refused(lambda: trained(model, (*VIEWS, IDS)), r"The loss has no gradient: .* detach\(\)")
    assert torch.equal(model.encoder.inner.weight, before)  # pyright: ignore


def test_closures_of_one_name_are_checked_by_their_own_annotations():
    def made(kind):
        @jaxtyped(typechecker=shapecheck.check)
        def taken(x: kind, *, twice: bool = False) -> kind:
            return 2 * x if twice else x

        return taken

    def one(x: float, *rest: int, ret: bool = True) -> float: ...
    def two(x: int, *rest: int, ret: bool = True) -> float: ...

    one.__qualname__ = two.__qualname__ = "f"
    assert shapecheck.check(one) is shapecheck.check(one) is not shapecheck.check(two), "a check is made once"
    for _ in range(2):
        for kind, right, wrong in ((int, 1, "1"), (str, "1", 1), (Float[torch.Tensor, "n 2"], X[:, :2], X)):
            assert made(kind)(right) is right
            with pytest.raises(TypeCheckError, match="taken"):
                made(kind)(wrong)
            with pytest.raises(TypeCheckError, match="taken"):
                made(kind)(right, twice="no")  # pyright: ignore
