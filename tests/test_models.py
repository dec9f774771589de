"""Contracts of every kind of model with every objective. tests/zoo.py has the models and their plain forms."""

import math
from pathlib import Path

import dense
import pytest
import torch
import zoo
from torch import nn

import infomax as im

N = 6
OBJECTIVES = [text for text in dense.FORMS if text.endswith("()")]


def test_every_objective_and_every_model_is_among_the_contracts():
    assert {text.removesuffix("()").lower() for text in OBJECTIVES} == set(im.objectives.registry)
    assert {type(zoo.made(name, "InfoNCE()")) for name in zoo.KINDS} == set(im.models.registry.values())


def gradients(value, model):
    """By name, of trainable parameters; what the value does not use has zeros."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(value, [*named.values()], allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named.items(), found, strict=True)}


def assert_alike(ours, theirs, tolerance=1e-10):
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        error = float((ours[name] - expected).norm() / expected.norm().clamp(min=1e-2))
        assert error < tolerance, (name, error)


@pytest.mark.parametrize("name", zoo.KINDS)
@pytest.mark.parametrize("text", OBJECTIVES)
def test_value_and_gradient_are_those_of_plain_matrices(name, text):
    model = zoo.made(name, text)
    inputs, ids = zoo.KINDS[name].batch(N), torch.tensor([40, 7, 11, 3, 28, 5])
    terms = zoo.KINDS[name].terms(model, inputs, ids)
    value_form, surrogate_form = dense.FORMS[text]
    expected = sum(t.weight * value_form(t.matrix, *t.where) for t in terms)
    ascended = sum(t.weight * surrogate_form(t.matrix, *t.where) for t in terms)
    theirs = gradients(ascended, model)
    if text == "TUBA()":  # dense.tuba has the baseline 0, where TUBA's starts; its slope there is mean e^s - 1
        for term in terms:
            name = next(key for key, p in model.named_parameters() if p is term.owner[1].scalar)
            partition = 1 + dense.positives(term.matrix, term.positive).mean() - value_form(term.matrix, *term.where)
            theirs[name] = term.weight * (partition - 1).detach()
    value = model(inputs, ids=ids)
    assert value.shape == () and value.isfinite()
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    ours = gradients(value, model)
    assert_alike(ours, theirs)
    for part in (key for key in ours if key.startswith("encoder") and key.endswith("weight")):
        assert float(ours[part].norm()) > 0, part
    assert model.surrogate is not None and not model.surrogate.requires_grad
    assert model.ceiling == pytest.approx(zoo.ceiling(terms), rel=1e-9)
    assert len(model.terms) == (len(terms) if len(terms) > 1 else 0)
    for found, term in zip(model.terms.values(), terms, strict=False):
        torch.testing.assert_close(found, value_form(term.matrix, *term.where).detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", zoo.KINDS)
def test_only_trainable_parts_have_a_gradient(name):
    model = zoo.made(name, "SMILE()")
    frozen = next(p for part, p in model.named_parameters() if part.startswith("encoder"))
    frozen.requires_grad_(False)
    model(zoo.KINDS[name].batch(N)).backward()
    # A term that a batch does not have leaves its parts alone.
    idle = {"DeepInfoMax, one view": "critic.", "DeepInfoMax, global": "patch_projector."}.get(name, "none")
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (parameter.requires_grad and not key.startswith(idle)), key
    assert frozen.grad is None


@pytest.mark.parametrize("name", zoo.KINDS)
@pytest.mark.parametrize("text", ["InfoNCE()", "MINE()"])
@pytest.mark.parametrize("microbatch", [1, 2, 4])
def test_microbatches_have_the_gradient_of_the_whole_batch(name, text, microbatch):
    found = []
    for size in (None, microbatch):
        model = zoo.made(name, text, microbatch=size)
        value = model(zoo.KINDS[name].batch(N))
        found.append({"value": value.detach(), **gradients(value, model)})
    assert_alike(found[1], found[0])


@pytest.mark.parametrize("name", zoo.KINDS)
def test_inputs_of_different_lengths_are_one_sentence(name):
    inputs = zoo.KINDS[name].batch(N)
    if len(inputs) == 1:
        inputs = inputs * 2
    inputs[1] = inputs[1][:4]
    with pytest.raises(im.UserError, match=r"^All inputs of a batch show the same samples.*\[6, 4"):
        zoo.made(name, "InfoNCE()")(inputs)


# ------------------------------------------------------------------------------------------------------------- MoCo


def moco(**options):
    torch.manual_seed(1)
    return zoo.moco(im.InfoNCE(), **options).double()


def fast_and_slow(model):
    return zip((*model.encoder.parameters(), *model.projector.parameters()),
               (*model.key_encoder.parameters(), *model.key_projector.parameters()), strict=True)  # fmt: skip


def test_keys_carry_no_gradient():
    model = zoo.made("MoCo", "NWJ()")
    model(zoo.KINDS["MoCo"].batch(N)).backward()
    assert all(slow.grad is None and not slow.requires_grad for _, slow in fast_and_slow(model))
    view1, view2 = (view.requires_grad_() for view in zoo.KINDS["MoCo"].batch(N))
    model([view1, view2]).backward()
    assert view1.grad is not None and view2.grad is None


@pytest.mark.parametrize("momentum", [0, 0.75])
def test_the_key_network_follows_by_its_momentum(momentum):
    model = moco(momentum=momentum)
    with torch.no_grad():
        for fast, _ in fast_and_slow(model):
            fast.add_(torch.randn_like(fast))
    expected = [momentum * slow + (1 - momentum) * fast for fast, slow in fast_and_slow(model)]
    model.after_step()
    for (fast, slow), value in zip(fast_and_slow(model), expected, strict=True):
        assert torch.equal(fast, slow) if momentum == 0 else torch.allclose(slow, value, rtol=1e-12)


def test_the_oldest_keys_are_overwritten_first():
    model, came = moco(queue=12), []
    for step in range(5):
        views = [view + step for view in zoo.KINDS["MoCo"].batch(N)]
        extra = model.sides(views, None).extra
        there = [] if extra is None else [*extra]
        assert len(there) == min(step, 2) * N
        came.append(model.key_projector(model.key_encoder(views[1])).detach())
        model.after_step()
        newest = torch.cat([came[step], came[step - 1]] if step else [came[0], torch.zeros_like(came[0])])
        found = model.keys if step % 2 == 0 else torch.cat([model.keys[N:], model.keys[:N]])
        torch.testing.assert_close(found, newest)
        assert int(model.filled) == (step + 1) * N


def test_an_earlier_key_of_a_rows_own_sample_is_no_negative_of_it():
    model, views = moco(queue=12), zoo.KINDS["MoCo"].batch(N)
    for ids in ([0, 1, 2, 3, 4, 5], [6, 7, 8, 0, 1, 2]):  # an epoch ends within the second batch
        model(views, torch.tensor(ids))
        model.after_step()
    now = torch.tensor([8, 0, 3, 9, 10, 11])
    sides = model.sides(views, now)
    expected = torch.tensor([[float(i != j) for j in [*now, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2]] for i in now])
    scores = im.Scores.of(model.critic, sides)
    assert scores.negative.per_row.tolist() == expected.sum(1).tolist() == [16, 15, 16, 17, 17, 17]
    matrix = model.critic(sides.x, torch.cat([sides.y, sides.extra])).detach()
    right = 1 + matrix.diagonal().mean() - matrix[expected.bool()].exp().mean()
    assert im.NWJ()(scores).item() == pytest.approx(float(right), rel=1e-13)
    # Without ids all rows differ, from all earlier ones too.
    assert im.Scores.of(model.critic, model.sides(views, None)).negative.per_row.tolist() == [17] * N


def test_an_objective_of_columns_is_refused_before_a_queue_is_filled():
    model, views = moco(), zoo.KINDS["MoCo"].batch(N)
    model.objective = im.InfoNCE(symmetric=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    refused("reads columns, and a queue's columns", lambda: im.training.check_inputs(model, views))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Wider(nn.Module):
    """A projector that shows no width: its last layer in order of registration is its first."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(9, 5)
        self.first = nn.Linear(6, 9)

    def forward(self, features):
        return self.last(self.first(features))


@pytest.mark.parametrize(
    ("encoder", "projector", "width"),
    [
        (lambda: zoo.images_encoder(), Wider, 5),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), nn.Identity, 7),
        (lambda: nn.Sequential(nn.Flatten(), nn.AvgPool1d(8)), nn.Identity, 8),  # no layer tells
    ],
)
def test_the_queue_is_as_wide_as_the_keys_and_comes_back_so(tmp_path, encoder, projector, width):
    def make():
        return im.MoCo(encoder(), projector(), im.Cosine(), im.InfoNCE(), queue=2 * N).double()

    model, views = make(), zoo.KINDS["MoCo"].batch(N)
    for _ in range(3):
        model(views, torch.arange(N))
        model.after_step()
    assert model.keys.shape == (2 * N, width) and model.keys.any(1).all()
    im.checkpoints.save(model, tmp_path / "run")
    found = make()
    im.checkpoints.read(tmp_path / "run").restore(found)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in found.state_dict().items())


def test_a_queue_that_was_saved_without_ids_is_read_as_of_other_samples():
    model, fresh, views = zoo.made("MoCo", "NWJ()"), moco(), zoo.KINDS["MoCo"].batch(N)
    old = {key: value for key, value in model.state_dict().items() if key != "key_ids"}
    fresh.load_state_dict(fresh.fitted(old))
    per_row = im.Scores.of(fresh.critic, fresh.sides(views, torch.arange(N))).negative.per_row
    assert per_row.tolist() == [N - 1 + zoo.QUEUE] * N


def test_keys_are_encoded_in_micro_batches_too():
    whole, parts = zoo.made("MoCo", "NWJ()"), zoo.made("MoCo", "NWJ()", microbatch=4)
    sizes = []
    parts.key_encoder.register_forward_hook(lambda module, given, out: sizes.append(len(given[0])))
    views = zoo.KINDS["MoCo"].batch(N)
    assert parts(views).item() == pytest.approx(whole(views).item(), rel=1e-13)
    assert sizes == [4, 2]


def test_evaluating_leaves_the_queue_alone():
    model = moco().eval()
    model(zoo.KINDS["MoCo"].batch(N))
    before = model.keys.clone()
    model.after_step()
    assert torch.equal(before, model.keys) and int(model.filled) == 0


@pytest.mark.parametrize(("queue", "told"), [(4, "queue of 4 keys"), (15, "queue of 15 keys")])
def test_a_queue_that_does_not_fit_the_batch_is_refused(queue, told):
    with pytest.raises(im.UserError, match=rf"{told} cannot be filled by batches of 6: choose a multiple"):
        moco(queue=queue)(zoo.KINDS["MoCo"].batch(N))


# ---------------------------------------------------------------------------------------------------------- bad input


class Gives(nn.Module):
    """An encoder that returns something else than rows of features."""

    num_features = 6

    def __init__(self, made):
        super().__init__()
        self.linear, self.made = nn.Linear(64, 6), made

    def forward(self, images):
        return self.made(self.linear(images.flatten(1)))


@pytest.mark.parametrize("kind", ["InfoMax", "MoCo", "DeepInfoMax", "CPC of images", "TwoTower"])
@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda z: z[:, :, None, None], r"shape \[\d+, 6, 1, 1\]"),
        (lambda z: {"features": z}, "a dict"),
        (lambda z: (z, z), "a tuple"),
        (lambda z: z[:1], r"shape \[1, 6\]"),
    ],
)
def test_an_encoder_that_gives_no_rows_is_told(kind, made, told):
    objective, images = im.InfoNCE(), torch.randn(2, 4, 1, 8, 8)
    encoder, part = Gives(made), zoo.projector()
    model = {
        "InfoMax": lambda: im.InfoMax(encoder, part, im.Cosine(), objective),
        "MoCo": lambda: im.MoCo(encoder, part, im.Cosine(), objective, queue=8),
        "DeepInfoMax": lambda: im.DeepInfoMax(encoder, part, None, im.Cosine(), objective, local=False),
        "CPC of images": lambda: im.CPC(
            encoder, im.encoders.CausalGRU(6, 7), im.Bilinear(7, 6), objective, steps=1, patch=8, stride=4
        ),
        "TwoTower": lambda: im.TwoTower(zoo.images_encoder(), encoder, part, part, im.Cosine(), objective),
    }[kind]()
    with pytest.raises(im.UserError, match=rf"The encoder, a Gives, returns {told} for \d+ samples"):
        model([*images])


def refused(told, make):
    with pytest.raises(im.UserError, match=told) as raised:
        make()
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")


def test_constructors_refuse_in_a_sentence():
    objective, encoder = im.InfoNCE(), zoo.images_encoder()
    for momentum in (1, -0.1, 1.5, math.nan):
        refused(rf"momentum must be in \[0, 1\), and {momentum}", lambda value=momentum: moco(momentum=value))
    for queue in (0, -3):
        refused(rf"whole number of keys, 1 or more, not {queue}", lambda value=queue: moco(queue=value))
    refused("no part 'layer9'; its parts: 0, 1, 2, 3, 4", lambda: zoo.deep_infomax(objective, layer="layer9"))
    refused("shows no feature map.*local=False", lambda: zoo.deep_infomax(objective, layer=None))
    refused("needs a term", lambda: zoo.deep_infomax(objective, local=False, globally=False))
    for weight in (0, -1.0, math.nan, math.inf):
        refused(f"Weights of terms .*{weight}", lambda value=weight: zoo.deep_infomax(objective, local_weight=value))
    refused("needs a patch_projector", lambda: im.DeepInfoMax(
        encoder, zoo.projector(), None, im.Cosine(), objective, layer="1"))  # fmt: skip
    context, critic = im.encoders.CausalGRU(6, 7), im.Bilinear(7, 6)
    refused("give patch and stride both", lambda: im.CPC(encoder, context, critic, objective, stride=2))
    refused("give patch and stride both", lambda: im.CPC(encoder, context, critic, objective, patch=2))
    for wrong in ({"steps": 0}, {"patch": 0, "stride": 1}, {"patch": 2, "stride": -1}):
        refused("CPC's .* whole number of at least 1, not (0|-1)", lambda v=wrong: im.CPC(
            encoder, context, critic, objective, **v))  # fmt: skip
    refused("targets is how many.*not 0", lambda: zoo.infomax(objective, targets=0))
    for name in zoo.KINDS:
        refused("microbatch is a number of pairs.*not 0", lambda n=name: zoo.made(n, "InfoNCE()", microbatch=0))


def test_batches_refuse_in_a_sentence():
    one, two, three = (zoo.views(count)(N) for count in (1, 2, 3))
    refused("needs two or more; there is 1", lambda: zoo.made("InfoMax", "InfoNCE()")(one))
    refused("NT-Xent is of two views, and there are 3", lambda: zoo.made("NT-Xent", "InfoNCE()")(three))
    for views in (one, three):
        refused(f"MoCo takes two views.*there are {len(views)}", lambda v=views: zoo.made("MoCo", "NWJ()")(v))
    refused("one view or two; there are 3", lambda: zoo.made("DeepInfoMax", "InfoNCE()")(three))
    refused("compares two views, and there is one", lambda: zoo.made("DeepInfoMax, global", "InfoNCE()")(one))
    refused("needs a feature map .*a? ?4 gives shape", lambda: zoo.made("DeepInfoMax", "InfoNCE()", layer="4")(two))
    refused("two modalities; there are 1", lambda: zoo.made("TwoTower", "InfoNCE()")(one))
    cpc = zoo.made("CPC of images", "InfoNCE()")
    refused(r"Patches of 4 pixels do not fit into images of \[1, 3, 8\]", lambda: cpc([two[0][:, :, :3]]))
    refused("predicts 2 steps ahead and there are 2 rows of patches", lambda: cpc([two[0][:, :, :6]]))
    sequences = zoo.made("CPC of sequences", "InfoNCE()")
    refused("predicts 3 steps ahead and there are 3 times", lambda: sequences([zoo.sequences(N)[0][:, :3]]))
    refused(r"must give features \[n, t, d\], and returns", lambda: im.CPC(
        nn.Flatten(), im.encoders.CausalGRU(6, 7), im.Bilinear(7, 6), im.InfoNCE())(zoo.sequences(N)))  # fmt: skip
    towers = im.TwoTower(
        nn.Flatten(), nn.Flatten(), nn.Linear(4, 5), nn.Linear(3, 6), im.Cosine(), im.InfoNCE()
    ).double()
    refused("towers give 5 and 6 numbers, and Cosine", lambda: towers(zoo.modalities(N)))


# ------------------------------------------------------------------------------------------------------------- recipes

CODE = 60
RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.mark.parametrize("name", ["moco", "deep_infomax", "cpc", "clip", "multicrop"])
def test_a_recipe_is_short_and_says_how_it_is_run(name):
    import ast

    text = (RECIPES / f"{name}.py").read_text()
    doc = ast.get_docstring(ast.parse(text), clean=False)
    assert doc is not None and f"accelerate launch recipes/{name}.py" in doc
    lines = [line for line in text.replace(doc, "").splitlines() if line.strip(' "\n')]
    assert 10 < len(lines) <= CODE


def test_a_run_has_at_most_five_public_members():
    public = {name for name in (*vars(im.Run), *im.Run.__annotations__) if not name.startswith("_")}
    assert public == {"settings", "steps", "train", "evaluate", "print"}
