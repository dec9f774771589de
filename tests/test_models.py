"""Contracts of every kind of model with every objective. tests/zoo.py has the models and their plain forms."""

import math
from pathlib import Path

import dense
import pytest
import torch
import zoo
from torch import nn

import infomax as im
from infomax.maps import places_of

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


def assert_alike(ours, theirs, tolerance=1e-12):
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
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    ours = gradients(value, model)
    assert_alike(ours, theirs)
    for part in (key for key in ours if key.startswith("encoder") and key.endswith("weight")):
        assert float(ours[part].norm()) > 0, part
    assert model.surrogate is not None and not model.surrogate.requires_grad
    assert model.ceiling == pytest.approx(zoo.ceiling(terms), rel=1e-9)
    assert len(model.terms) == (len(terms) if len(terms) > 1 else 0)
    for found, term in zip(model.terms.values(), terms, strict=False):
        torch.testing.assert_close(found, value_form(term.matrix, *term.where).detach(), rtol=1e-12, atol=1e-12)


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


class Entry(nn.Module):
    """Gives what `made` makes of a linear layer's rows."""

    def __init__(self, made):
        super().__init__()
        self.linear, self.made = nn.Linear(6, 5), made

    def forward(self, features):
        return self.made(self.linear(features))


@pytest.mark.parametrize(
    ("made", "shown"), [(lambda z: (z, z), "a tuple"), (lambda z: {"z": z}, "a dict"), (lambda z: z[:1], r"shape \[1")]
)
def test_a_projector_or_context_that_gives_no_tensor_is_named(made, shown):
    objective, part = im.InfoNCE(), Entry(made)
    images, encoder = [view.float() for view in zoo.views(2)(N)], zoo.images_encoder()
    options = {"layer": "1", "globally": False}
    models = {
        "projector": im.InfoMax(encoder, part, im.Cosine(), objective),
        "projector ": im.MoCo(encoder, part, im.Cosine(), objective, queue=N),
        "projector  ": im.DeepInfoMax(encoder, part, zoo.projector(), im.Cosine(), objective, **options),
        "patch_projector": im.DeepInfoMax(encoder, zoo.projector(), part, im.Cosine(), objective, **options),
        "context": im.CPC(encoder, part, im.Bilinear(5, 6), objective, patch=4, stride=2),
    }
    for name, model in models.items():
        told = rf"^The {name.strip()}, a Entry, returns {shown}"
        refused(told, lambda model=model: model(images))
        refused(told, lambda model=model: im.training.check_inputs(model, images))
    x, y = (t.float() for t in zoo.modalities(N))
    towers = im.TwoTower(nn.Linear(4, 6), nn.Linear(3, 6), zoo.projector(), part, im.Cosine(), objective)
    refused(f"^The projector_y, a Entry, returns {shown}", lambda: towers([x, y]))


def test_a_context_gives_each_place_one():
    gru = im.CPC(nn.Linear(6, 5), nn.GRU(5, 7, batch_first=True), im.Bilinear(7, 5), im.InfoNCE())
    refused("^The context, a GRU, returns a tuple", lambda: gru([torch.randn(4, 5, 6)]))
    flat = im.CPC(nn.Linear(6, 5), nn.Flatten(), im.Bilinear(25, 5), im.InfoNCE())
    refused(r"^The context, a Flatten, returns shape \[4, 25\]", lambda: flat([torch.randn(4, 5, 6)]))


class Reads(nn.Module):
    """Contexts of a place: itself and the mean of the places that `mask` [t, t] lets it read, after dropout."""

    def __init__(self, mask):
        super().__init__()
        self.mask, self.drop = mask, nn.Dropout(0.5)

    def forward(self, features):
        t = features.shape[1]
        weights = self.mask(torch.ones(t, t, dtype=features.dtype))
        return self.drop(features + weights / weights.sum(1, keepdim=True) @ features)


def test_a_context_that_reads_the_future_is_refused():
    def cpc(mask):
        return im.CPC(nn.Linear(3, 6), Reads(mask), im.Bilinear(6, 6), im.InfoNCE()).double()

    batch = zoo.sequences(N)
    for ahead in (0, -1):
        assert cpc(lambda m, k=ahead: torch.tril(m, k) + torch.eye(len(m), dtype=m.dtype))(batch).isfinite()
    for ahead in (1, 9):
        model = cpc(lambda m, k=ahead: torch.tril(m, k))
        refused("^The context, a Reads, reads later places", lambda model=model: model(batch))
        assert model.context.training
    # A place that it skips matters as well.
    far = cpc(lambda m: torch.eye(len(m), dtype=m.dtype).roll(2, 1) + torch.eye(len(m), dtype=m.dtype))
    refused("reads later places", lambda: far(batch))
    two_ways = nn.GRU(6, 3, batch_first=True, bidirectional=True)
    both = im.CPC(nn.Linear(3, 6), First(two_ways), im.Bilinear(6, 6), im.InfoNCE()).double()
    refused("^The context, a First, reads later places", lambda: im.training.check_inputs(both, batch))


class First(nn.Module):
    def __init__(self, unit):
        super().__init__()
        self.unit = unit

    def forward(self, features):
        return self.unit(features)[0]


def test_the_trial_of_a_context_leaves_the_generator_alone():
    model, batch = (
        im.CPC(nn.Linear(3, 6), Reads(torch.tril), im.Bilinear(6, 6), im.InfoNCE()).double(),
        zoo.sequences(N),
    )
    torch.manual_seed(3)
    first = model(batch).detach()
    torch.manual_seed(3)
    assert torch.equal(model(batch).detach(), first)


def test_a_grid_that_skips_pixels_is_refused():
    def cpc(patch, stride, steps=1):
        return im.CPC(
            zoo.images_encoder(), im.encoders.CausalGRU(6, 7), im.Bilinear(7, 6), im.InfoNCE(), steps=steps,
            patch=patch, stride=stride,
        )  # fmt: skip

    images = [torch.randn(N, 1, 8, 8)]
    refused(r"^Patches of 3 pixels, one every 5, leave out 44% .* stride=1 they see all", lambda: cpc(3, 5)(images))
    refused("leave out 23% .* stride=2", lambda: cpc(4, 3)(images))
    # What is advised is taken: of a stride of 2 there would be 2 rows of patches, and 2 steps ahead need 3.
    refused("stride=1 they see all", lambda: cpc(6, 3, steps=2)(images))
    assert cpc(6, 1, steps=2)(images).isfinite()
    refused("take smaller patches", lambda: cpc(6, 3, steps=3)(images))
    for patch, stride in ((4, 4), (4, 2), (3, 1)):
        assert cpc(patch, stride)(images).isfinite()
    assert cpc(13, 13)([torch.randn(2, 1, 40, 40)]).isfinite()  # a row and a column of forty, as everywhere


def test_a_layer_after_the_hooked_one_may_work_in_place():
    def model(inplace):
        torch.manual_seed(0)
        encoder = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(inplace=inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )  # fmt: skip
        return im.DeepInfoMax(
            encoder, nn.Linear(4, 5), nn.Linear(4, 5), im.Cosine(0.5), im.InfoNCE(), layer="0"
        ).double()

    views, found = zoo.views(2)(N), []
    for each in (model(False), model(True)):
        value = each(views)
        found.append([value.detach(), *torch.autograd.grad(value, [*each.encoder.parameters()])])
    for plain, inplace in zip(*found, strict=True):
        assert torch.equal(plain, inplace)


class Gives2(im.models.Model):
    """A model whose sides are what `make` makes of two views."""

    def __init__(self, make):
        super().__init__(im.Cosine(), im.InfoNCE())
        self.make = make

    def sides(self, inputs, ids):
        return self.make(*inputs)


def test_what_sides_gives_is_looked_at():
    Sides, batch = im.scores.Sides, [*torch.randn(2, N, 4)]
    for make, told in (
        (lambda x, y: None, "not a NoneType"), (lambda x, y: [], "not an empty list"),
        (lambda x, y: (x, y), "not a tuple of Tensor"), (lambda x, y: x, "not a Tensor"),
        (lambda x, y: [Sides(x, y), Sides(y, x)], "2 terms named '', ''"),
        (lambda x, y: [Sides(x, y, name="a"), Sides(y, x, name="a")], "2 terms named 'a', 'a'"),
        (lambda x, y: [Sides(x, y, name="a"), Sides(y, x)], "2 terms named 'a', ''"),
        (lambda x, y: Sides(x, y, weight=math.nan), "weight .* not nan"),
        (lambda x, y: Sides(x, y, weight=-1.0, name="a"), "term 'a' .* not -1.0"),
    ):  # fmt: skip
        refused(told, lambda make=make: Gives2(make)(batch))
    both = Gives2(lambda x, y: (Sides(x, y, name="a"), Sides(y, x, name="b", weight=0)))
    assert both(batch).isfinite() and both.terms.keys() == {"a", "b"}


def test_a_batch_without_inputs_is_refused():
    refused("inputs of a batch are tensors.*there is none", lambda: zoo.made("TwoTower", "InfoNCE()")([]))


def test_what_a_part_cannot_take_is_said_of_that_part():
    def check(model, *inputs):
        im.training.check_inputs(model, inputs)

    towers = im.TwoTower(nn.Linear(3, 5), nn.Linear(6, 5), nn.Identity(), nn.Identity(), im.Cosine(), im.InfoNCE())
    refused("^The encoder_y, a Linear, cannot take rows of 7 numbers: ", lambda: check(
        towers, torch.randn(N, 3), torch.randn(N, 7)))  # fmt: skip
    wrong = im.InfoMax(zoo.images_encoder(), nn.Linear(9, 5), im.Cosine(), im.InfoNCE())
    refused(
        "^The projector, a Linear, cannot take rows of 6 numbers: ", lambda: check(wrong, *torch.randn(2, N, 1, 8, 8))
    )
    deep = zoo.deep_infomax(im.InfoNCE())
    two_sizes = torch.randn(N, 1, 8, 8), torch.randn(N, 1, 6, 6)
    for call in (lambda: check(deep, *two_sizes), lambda: deep(two_sizes)):
        refused(r"^Deep InfoMax encodes both views at once, in one shape; they have \[\[1, 8, 8\], \[1, 6, 6\]\]", call)

    class Keyed(nn.Module):
        def forward(self, images):
            return {"a": images}["features"]

    broken = im.InfoMax(Keyed(), nn.Identity(), im.Cosine(), im.InfoNCE())
    refused("^The encoder, a Keyed, cannot take images of 1x8x8 .*KeyError 'features'", lambda: check(
        broken, *torch.randn(2, N, 1, 8, 8)))  # fmt: skip


class Mapped(nn.Module):
    """An encoder with timm's map and without timm's head."""

    def forward_features(self, images):
        return images


def test_constructors_refuse_in_a_sentence():
    objective, encoder = im.InfoNCE(), zoo.images_encoder()
    for momentum in (1, -0.1, 1.5, math.nan):
        refused(rf"momentum must be in \[0, 1\), and {momentum}", lambda value=momentum: moco(momentum=value))
    refused("and forward_head", lambda: im.DeepInfoMax(
        Mapped(), zoo.projector(), zoo.projector(), im.Cosine(), objective))  # fmt: skip
    refused("microbatch is a number of pairs.*not True", lambda: moco(microbatch=True))
    refused("targets is how many.*not True", lambda: zoo.infomax(objective, targets=True))
    for queue in (0, -3, True):
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


WRONG = """
import torch, infomax as im
from torch import nn
from infomax.scores import Sides

class OfTokens(nn.Module):
    def forward(self, tokens):
        return tokens["tokens"]

class Weighed(im.Model):
    def sides(self, inputs, ids):
        return Sides(*inputs, weight="1")

e, p, c, o = nn.Linear(3, 4), nn.Linear(4, 4), im.Cosine(), im.InfoNCE()
for make in (
    lambda: im.MoCo(e, p, c, o, momentum="0.9"), lambda: im.MoCo(e, p, c, o, queue=8.0),
    lambda: im.MoCo(e, p, c, o, queue="8"), lambda: im.InfoMax(e, p, c, o, microbatch=2.5),
    lambda: im.TwoTower(e, e, p, p, c, o, microbatch="2"), lambda: im.InfoMax(e, p, c, o, targets=2.5),
    lambda: im.Cosine(minimum=None), lambda: im.Cosine(bias="a"), lambda: im.Concat(2, 2, hidden=2.5),
    lambda: im.Scores(c, torch.ones(3, 2), torch.ones(3, 2), columns=2.5),
    lambda: im.Scores.of(c, torch.ones(3, 2)),
    lambda: im.Scores.from_matrix(torch.eye(3)).negative.mean(torch.exp),
    lambda: im.Scores(c, torch.ones(3, 2), torch.ones(3, 2), [0, 1, 2]),
    lambda: im.DeepInfoMax(e, p, p, c, o, local_weight="1"), lambda: im.CPC(e, p, c, o, steps=1.5),
    lambda: Weighed(c, o)([*torch.randn(2, 5, 3)]),
    lambda: im.TwoTower(OfTokens(), e, p, p, c, o)([{"tokens": torch.randn(5, 4)}, torch.randn(5, 3)]),
    lambda: im.training.check_inputs(
        im.TwoTower(OfTokens(), e, p, p, c, o), [{"tokens": torch.randn(5, 4)}, torch.randn(5, 3)]
    ),
):
    try:
        make()
    except im.UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_options_of_another_type_are_refused_in_a_sentence():
    """In a process of its own, since the tests' check of annotations would come first."""
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", WRONG], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    wrong = ["'0.9'", "8.0", "'8'", "2.5", "'2'", "2.5", "None", "'a'", "2.5", "2.5",
             "not a Tensor: give Sides(x, y)", "not of <built-in method exp",
             "ids is a list", "'1'", "1.5", "'1'", "there is a dict", "there is a dict"]  # fmt: skip
    assert len(told) == len(wrong) and all(each in line for each, line in zip(wrong, told, strict=True)), told


def test_batches_refuse_in_a_sentence():
    one, two, three = (zoo.views(count)(N) for count in (1, 2, 3))
    refused("needs two or more; there is 1", lambda: zoo.made("InfoMax", "InfoNCE()")(one))
    refused("NT-Xent is of two views, and there are 3", lambda: zoo.made("NT-Xent", "InfoNCE()")(three))
    for views in (one, three):
        refused(f"MoCo takes two views.*there are {len(views)}", lambda v=views: zoo.made("MoCo", "NWJ()")(v))
    refused("one view or two; there are 3", lambda: zoo.made("DeepInfoMax", "InfoNCE()")(three))
    refused("compares two views, and there is one", lambda: zoo.made("DeepInfoMax, global", "InfoNCE()")(one))
    refused("needs a feature map .* 4 of the encoder, a Sequential, gives shape",
            lambda: zoo.made("DeepInfoMax", "InfoNCE()", layer="4")(two))  # fmt: skip
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


@pytest.mark.parametrize(
    "name", ["moco", "deep_infomax", "cpc", "cpc_signals", "clip", "given_views", "multicrop", "signals"]
)
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


@pytest.mark.parametrize(
    ("name", "size", "width", "places"),
    [("mambaout_femto", 64, 288, 4), ("swin_tiny_patch4_window7_224", 64, 768, 4),
     ("vit_tiny_patch16_224", 64, 192, 16), ("resnet10t", 64, 512, 4)],
)  # fmt: skip
def test_places_of_a_map_are_rows_wherever_its_channels_stand_and_a_class_token_is_none(name, size, width, places):
    encoder = im.encoder(name, 1, **({} if name in ("mambaout_femto", "resnet10t") else {"img_size": size}))
    assert im.encoders.map_width(encoder, (1, size, size)) == width
    found = encoder.eval().forward_features(torch.randn(2, 1, size, size))  # pyright: ignore[reportCallIssue]
    rows = places_of(encoder, found)
    assert rows.shape == (2, places, width)
    parts = nn.Linear(im.encoders.features_of(encoder), 8), nn.Linear(width, 8)
    model = im.DeepInfoMax(encoder, *parts, im.Cosine(0.1), im.InfoNCE()).eval()
    local = model.sides([torch.randn(3, 1, size, size)] * 2, None)[1]
    assert local.x.shape == (2 * 3 * places, 8)


def test_a_named_part_before_the_class_token_has_places_alone():
    encoder = im.encoder("vit_tiny_patch16_224", 1, img_size=32)
    for layer, places in (("patch_embed", 4), ("blocks.2", 4), ("norm", 4)):
        caught = []
        hook = encoder.get_submodule(layer).register_forward_hook(
            lambda m, given, out, caught=caught: caught.append(out)
        )
        encoder(torch.randn(2, 1, 32, 32))
        hook.remove()
        assert places_of(encoder, caught[0], layer).shape == (2, places, 192)


def test_what_a_step_could_not_read_is_a_sentence_before_it():
    x, y = torch.randn(2, 16, 8).unbind()
    identity, cosine = nn.Identity(), im.Cosine(0.1)

    class EachPair(im.objectives.Objective):
        """A value a pair, of which no mean is taken."""

        def estimate(self, s):
            return s.positive

    with pytest.raises(im.UserError, match=r"EachPair.estimate gives shape \[16\], and not one number"):
        im.InfoMax(identity, identity, cosine, EachPair())([x, y])
    for ntxent in (False, True):
        broken = x.clone()
        broken[3] = math.nan
        with pytest.raises(
            im.UserError, match=r"Input 1 of the batch has NaN or infinite numbers in 1 of 16 rows \(3\)"
        ):
            im.InfoMax(identity, identity, cosine, im.InfoNCE(), ntxent=ntxent)([broken, y])
    with pytest.raises(im.UserError, match="There is no projector"):
        im.MoCo(nn.Linear(8, 4), None, cosine, im.InfoNCE(), queue=32)  # pyright: ignore[reportArgumentType]
    model = im.MoCo(nn.Linear(8, 4), identity, cosine, im.InfoNCE(), queue=32).train()
    model([x, y])
    model.after_step()
    with pytest.raises(im.UserError, match=r"Batches of one MoCo have one size: .* room for 16, and this batch has 32"):
        model([torch.randn(32, 8)] * 2)
    model([x, y])
    model.after_step()
    assert int(model.filled) == 32


def test_no_micro_batch_of_one_is_left_to_batch_norm():
    def model(microbatch):
        parts = nn.Linear(8, 4), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        return im.InfoMax(*parts, im.Cosine(0.1), im.InfoNCE(), microbatch=microbatch).train()

    for n, microbatch in ((16, 5), (7, 3)):
        seen = []
        made = model(microbatch)
        made.encoder.register_forward_hook(lambda m, given, out, seen=seen: seen.append(len(out)))
        made([torch.randn(n, 8)] * 2)
        # Encoded once for features and once for their gradient, both views together in each micro-batch or one by one.
        assert min(seen) >= 2 and max(seen) <= 2 * microbatch
    with pytest.raises(im.UserError, match="3 samples in micro-batches of 2 leave one by itself"):
        model(2)([torch.randn(3, 8)] * 2)
    with pytest.raises(im.UserError, match="A micro-batch of 1 has no variance"):
        model(1)
    signals = nn.Sequential(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    alone = im.InfoMax(signals, nn.Identity(), im.Cosine(0.1), im.InfoNCE(), microbatch=1).train()
    assert alone([torch.randn(3, 1, 8)] * 2).isfinite(), "of a signal one has a variance over time"
