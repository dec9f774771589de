"""The training loop. Run by torchrun, this file is the worker of its own test on two processes."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import infomax as im
from infomax import data, encoders, launch, training
from infomax.critics import Cosine
from infomax.errors import NonFinite
from infomax.training import warmup_cosine

N, SIDE = 16, 8
REGISTERED = sorted(im.objectives.registry)


class InDouble(nn.Module):
    """An encoder in float64: what 1 and 2 processes compute then differs by rounding alone."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner.double()

    def forward(self, images):
        return self.inner(images.double())


def pairs(batch=N):
    images = torch.randint(0, 256, (48, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    split = data.from_tensors(images, None, images[:2], None)
    return data.PairLoader(split.train, data.views_for(split), batch, seed=0)


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 12))


def dropping():
    return nn.Sequential(perceptron(), nn.Dropout(0.5))


def model_of(objective, make=perceptron, temperature=0.3):
    torch.manual_seed(0)
    encoder = make()
    width = encoder(torch.zeros(2, 1, SIDE, SIDE)).shape[1]
    projector = encoders.Projector(width, hidden=12, out=6, norm="layer")
    return im.InfoMax(
        encoder,
        projector,
        Cosine(temperature, learn=True, minimum=min(temperature, 0.01)),
        im.objectives.objective(objective),
    )


def accelerator(**arguments):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)  # as each process has its own
    GradientState._reset_state()
    return Accelerator(cpu=True, **arguments)


def trained(model, steps=2, start=0, loader=None, optimizer=None, schedule=None, by=None, clip=1.0):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = schedule or warmup_cosine(10, 2)
    return im.train(
        model, loader or pairs(), optimizer, schedule, by or accelerator(), steps=steps, start=start, clip=clip
    )


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# ---------------------------------------------------------------------------------------------------------- objectives


@pytest.mark.parametrize("name", REGISTERED)
def test_every_objective_trains(name):
    model = model_of(name)
    before = weights(model)
    steps = list(trained(model, steps=4))
    assert [(step.number, step.epoch) for step in steps] == [(1, 0), (2, 0), (3, 0), (4, 1)]
    for step in steps:
        assert math.isfinite(step.mi) and math.isfinite(step.surrogate) and step.gradient_norm > 0
        assert (step.pairs, step.ceiling) == (N, math.log(N)) and step.images_per_second > 0
    after = weights(model)
    for part in ("encoder.1.weight", "projector.layers.0.weight", "critic.log_temperature"):
        assert not torch.equal(before[part], after[part]) and after[part].isfinite().all(), part


def test_what_is_ascended_rises_and_a_step_is_json():
    class OneBatch:
        batch_size = N

        def __len__(self):
            return 1

        def at(self, step, rank, world, device):
            return pairs().at(0, rank, world, device)

    model = model_of("InfoNCE")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    steps = list(trained(model, steps=40, loader=OneBatch(), optimizer=optimizer, schedule=lambda step: 1.0))
    assert steps[-1].mi > steps[0].mi + 0.5
    assert steps[0].mi == steps[0].surrogate  # one formula
    assert list(json.loads(json.dumps(steps[0].to_dict()))) == [
        "number", "epoch", "mi", "surrogate", "pairs", "ceiling", "gradient_norm", "learning_rate", "images_per_second",
        "skipped",
    ]  # fmt: skip


def test_value_and_surrogate_are_those_of_the_batch():
    model = model_of("SMILE(tau=0.5)")
    loader = pairs()
    with torch.no_grad():
        batch = loader.at(0)
        z1, z2 = (model.projector(model.encoder(view)) for view in batch[:2])
        scores = im.Scores(model.critic, z1, z2, batch.ids)
        value, surrogate = model.objective.estimate(scores).item(), model.objective.surrogate(scores).item()
    [step] = trained(model, steps=1, loader=loader)
    assert value != pytest.approx(surrogate)
    assert (step.mi, step.surrogate) == pytest.approx((value, surrogate), rel=1e-5)


def test_ntxent_has_twice_the_rows_and_their_ceiling():
    plain = model_of("InfoNCE")
    model = im.InfoMax(plain.encoder, plain.projector, plain.critic, plain.objective, ntxent=True)
    [step] = trained(model, steps=1)
    assert (step.pairs, step.ceiling) == (N, math.log(2 * N - 1))


# ----------------------------------------------------------------------------------------------------------- generator


def test_nothing_happens_until_asked_and_the_caller_may_stop():
    model = model_of("JS")
    before = weights(model)
    steps = trained(model, steps=1000)
    assert same(before, weights(model))
    assert [next(steps).number, next(steps).number] == [1, 2]
    reached = weights(model)
    steps.close()
    assert same(reached, weights(model)) and not same(before, reached)


def test_no_steps_to_take_are_no_steps():
    assert list(trained(model_of("JS"), steps=3, start=3)) == []


def test_two_halves_make_a_whole():
    def adam(model):
        return torch.optim.AdamW(model.parameters(), lr=0.01)

    whole, halves = model_of("MINE"), model_of("MINE")
    expected = list(trained(whole, steps=6, optimizer=adam(whole)))
    optimizer = adam(halves)
    found = list(trained(halves, steps=3, optimizer=optimizer))
    found += trained(halves, steps=6, start=3, optimizer=optimizer)
    assert [(s.number, s.mi, s.learning_rate) for s in found] == [(s.number, s.mi, s.learning_rate) for s in expected]
    assert same(weights(whole), weights(halves))


def test_the_schedule_multiplies_each_groups_own_rate():
    model = model_of("JS")
    groups = [{"params": model.encoder.parameters(), "lr": 0.1}, {"params": model.projector.parameters(), "lr": 0.01}]
    optimizer = torch.optim.SGD(groups)
    schedule = warmup_cosine(6, 2)
    for step in trained(model, steps=6, optimizer=optimizer, schedule=schedule):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([0.1 * schedule(step.number - 1), 0.01 * schedule(step.number - 1)])
        assert step.learning_rate == rates[0]


def test_the_body_of_the_loop_may_use_the_model():
    left = model_of("JS", dropping)
    for _ in trained(left, steps=3):
        left.eval()
        assert left(*pairs().at(0)).isfinite()
    right = model_of("JS", dropping)  # made now, since making one seeds what dropout draws
    list(trained(right, steps=3))
    assert same(weights(left), weights(right))  # the next step trains in training mode again


def test_the_norm_is_reported_before_it_is_clipped():
    reported = {}
    for clip in (1e-3, math.inf):
        model = model_of("InfoNCE")
        before = weights(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        [step] = trained(model, steps=1, optimizer=optimizer, schedule=lambda step: 1.0, clip=clip)
        moved = math.sqrt(sum(float((value - before[name]).square().sum()) for name, value in weights(model).items()))
        assert moved == pytest.approx(min(step.gradient_norm, clip), rel=1e-3)
        reported[clip] = step.gradient_norm
    assert reported[1e-3] == pytest.approx(reported[math.inf]) and reported[math.inf] > 1e-2


def test_the_schedule_warms_up_and_ends_at_zero():
    schedule = warmup_cosine(20, warmup=4)
    values = [schedule(step) for step in range(21)]
    assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert values[4:] == sorted(values[4:], reverse=True)
    assert values[12] == pytest.approx(0.5) and values[20] == pytest.approx(0)
    assert warmup_cosine(5)(0) == 1.0


# ---------------------------------------------------------------------------------------------------------- what stops


class Broken(im.DV):
    """DV whose surrogate, or only its gradient, is not a number."""

    def __init__(self, term: str = "surrogate"):
        super().__init__()
        self.term = term

    def surrogate(self, s):
        if self.term == "surrogate":
            return super().surrogate(s) * math.nan
        return super().surrogate(s) + (0 * s.positive).abs().sqrt().sum()  # 0, with gradient 0 / 0


@pytest.mark.parametrize(
    ("term", "told"),
    [
        ("surrogate", "the surrogate is nan"),
        ("gradient", "the surrogate is finite, the gradient of encoder, projector, critic is not finite"),
    ],
)
def test_what_is_not_finite_stops_before_the_weights_change(term, told):
    model = model_of(Broken(term))
    before = weights(model)
    with pytest.raises(NonFinite, match=rf"step 1: {told}.*Try a lower learning rate"):
        list(trained(model))
    assert same(before, weights(model))


class BrokenAt(im.DV):
    """DV whose surrogate is not a number at some steps, counted from 1."""

    def __init__(self, steps):
        super().__init__()
        self.broken, self.done = steps, 0

    def value_and_surrogate(self, s):
        self.done += 1
        value, surrogate = super().value_and_surrogate(s)
        factor = math.nan if self.done in self.broken else 1
        return value * factor, surrogate * factor


def normalised():
    return nn.Sequential(perceptron(), nn.BatchNorm1d(12))


def breaking(steps):
    model = model_of("DV", normalised)
    model.objective = BrokenAt(steps)
    return model


def stepping(model, **options):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return optimizer, im.train(model, pairs(), optimizer, lambda step: 1.0, accelerator(), **options)


@pytest.mark.parametrize("broken", [[1], [2, 3]])
def test_a_step_that_is_skipped_leaves_everything_as_it_was(broken):
    model = breaking(broken)
    optimizer, steps = stepping(model, steps=4, nonfinite="skip")
    before, moments = weights(model), {}
    for step in steps:
        assert step.skipped == (step.number in broken)
        assert step.skipped == same(before, weights(model))  # BatchNorm's running statistics among them
        after = {place: entry["exp_avg"].tolist() for place, entry in optimizer.state_dict()["state"].items()}
        assert step.skipped == (moments == after)
        before, moments = weights(model), after


def test_twenty_are_skipped_in_succession_and_no_more():
    _, steps = stepping(breaking(range(3, 99)), nonfinite="skip", steps=40)
    assert [next(steps).skipped for _ in range(22)] == [False] * 2 + [True] * 20
    with pytest.raises(NonFinite, match="step 23"):
        next(steps)


def test_those_before_a_resumed_run_count_among_the_twenty():
    _, steps = stepping(breaking(range(1, 99)), nonfinite="skip", steps=40, skipped=17)
    assert [next(steps).skipped for _ in range(3)] == [True] * 3
    with pytest.raises(NonFinite, match="step 4"):
        next(steps)
    _, steps = stepping(breaking(range(2, 99)), nonfinite="skip", steps=40, skipped=17)
    assert [next(steps).skipped for _ in range(21)] == [False] + [True] * 20


def test_running_statistics_are_those_before_the_step_that_stops():
    model = breaking([2])
    _, steps = stepping(model, steps=3)
    next(steps)
    before = weights(model)
    with pytest.raises(NonFinite):
        next(steps)
    assert same(before, weights(model))


def test_another_policy_is_refused():
    with pytest.raises(im.UserError, match="one of stop, skip, not 'ignore'"):
        next(stepping(breaking([]), steps=1, nonfinite="ignore")[1])


@pytest.mark.parametrize("clip", [-1.0, 0.0, math.nan])
def test_a_clip_that_would_turn_the_gradient_round_is_refused(clip):
    with pytest.raises(im.UserError, match=f"clip is the largest gradient norm, above 0, or inf for none; not {clip}"):
        next(stepping(breaking([]), steps=1, clip=clip)[1])


def test_a_weight_that_breaks_is_told_at_the_next_step():
    model = model_of("InfoNCE")
    steps = trained(model, steps=9)
    assert [next(steps).number, next(steps).number] == [1, 2]
    with torch.no_grad():
        model.projector.layers[0].weight[0, 0] = math.nan
    with pytest.raises(NonFinite, match=r"step 3: the surrogate is nan.* step 2 "):
        next(steps)


def test_a_value_that_overflows_neither_stops_nor_poisons():
    model = model_of("JS", temperature=0.005)  # scores up to 200, and e^200 is no float32
    steps = list(trained(model, steps=3))
    assert any(math.isinf(step.mi) for step in steps)
    assert all(math.isfinite(step.surrogate) for step in steps)
    assert all(value.isfinite().all() for value in weights(model).values())


def test_gradient_accumulation_is_refused():
    steps = trained(model_of("JS"), by=accelerator(gradient_accumulation_steps=4))
    with pytest.raises(im.UserError, match=r"adds no negatives.*1/4 of the batch"):
        next(steps)


def test_synchronised_batch_norm_needs_a_gpu():
    with pytest.raises(im.UserError, match="needs GPUs"):
        training.synchronise_batch_norm(model_of("JS"))


def test_images_that_the_encoder_cannot_take_are_told_first():
    class Fussy(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def forward(self, images):
            assert images.shape[2] == SIDE, f"images must be {SIDE} high"
            return self.norm(images).flatten(1)

    model = model_of("JS", lambda: nn.Sequential(Fussy(), nn.Dropout(0.5)))
    model.encoder.train()
    model.encoder[0].norm.eval()
    before, generator = weights(model), torch.get_rng_state()
    training.check_model(model, (1, SIDE, SIDE), pairs=3)
    with pytest.raises(im.UserError, match=r"Sequential, cannot take images of 1x9x8 .*: images must be 8 high\."):
        training.check_model(model, (1, 9, 8), pairs=3)
    assert same(before, weights(model)) and torch.equal(generator, torch.get_rng_state())
    assert model.training and model.encoder.training and not model.encoder[0].norm.training


class Gives:
    """A loader of a user's own whose batches are what `made` makes of two views and ids."""

    batch_size = N

    def __init__(self, made):
        self.made, self.inner = made, pairs()

    def __len__(self):
        return 3

    def at(self, step, rank, world, device):
        *views, ids = self.inner.at(step, rank, world, device)
        return self.made(views, ids)


@pytest.mark.parametrize(
    ("loader", "told"),
    [
        (
            Gives(lambda views, ids: {"image": views[0], "text": views[1], "id": ids}),
            r"^The loader gives a dictionary, of 'image', 'text', 'id': let its at\(\) return a tuple, .*as"
            r" \(batch\['image'\], batch\['text'\], batch\['id'\], ids\)\.$",
        ),
        (
            Gives(lambda views, ids: ({"image": views[0]}, views[1], ids)),
            r"^The inputs of a batch are tensors .*a dictionary, of 'image': give its tensors one by one, and last",
        ),
        (Gives(lambda views, ids: (*views, {"id": ids})), r"^The ids of a batch are tensors .*a dictionary, of 'id'"),
        (Gives(lambda views, ids: (views[0], ["a text"] * N, ids)), r"^The inputs of a batch .* gives a list"),
        (Gives(lambda views, ids: None), r"^A batch is a tuple, .*the loader gives a NoneType\.$"),
        (torch.utils.data.DataLoader([1, 2]), r"^A DataLoader does not give batches by step number.*data\.PairLoader"),
    ],
)
def test_what_a_loader_gives_is_refused_before_the_first_step(loader, told):
    model = model_of("SMILE()")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(im.UserError, match=told):
        next(im.train(model, loader, optimizer, lambda step: 1.0, accelerator(), steps=3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_loader_without_ids_trains():
    model = model_of("SMILE()")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = Gives(lambda views, ids: (*views, None))
    assert len(list(im.train(model, loader, optimizer, lambda step: 1.0, accelerator(), steps=2))) == 2


def test_an_objective_of_columns_meets_a_queue_before_the_first_step():
    def made(objective):
        return im.MoCo(perceptron(), encoders.Projector(12, 12, 6), Cosine(0.3), objective, queue=32, momentum=0.5)

    columns, rows = made(im.InfoNCE(symmetric=True)), made(im.InfoNCE())
    for model in (columns, rows):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        steps = im.train(model, pairs(), optimizer, lambda step: 1.0, accelerator(), steps=3)
        if model is rows:
            assert next(steps).ceiling == pytest.approx(math.log(N)) and int(model.filled) == N
            continue
        with pytest.raises(im.UserError, match="reads columns, and a queue's columns have no positives"):
            next(steps)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_parameters_that_the_loss_does_not_use_are_named_once_and_stay(caplog):
    model = model_of("InfoNCE")
    model.encoder.head = nn.Linear(3, 2)
    model.encoder.forward = lambda images: nn.Sequential.forward(nn.Sequential(*list(model.encoder)[:-1]), images)
    before = [p.detach().clone() for p in model.encoder.head.parameters()]
    with caplog.at_level("WARNING", logger="infomax"):
        list(trained(model, steps=2))
    told = [record.getMessage() for record in caplog.records if "does not use" in record.getMessage()]
    assert told == [
        "The loss does not use encoder.head.weight, encoder.head.bias: without a gradient these stay as they are."
    ]
    assert all(torch.equal(*pair) for pair in zip(before, model.encoder.head.parameters(), strict=True))


def test_where_all_are_used_nothing_is_said(caplog):
    with caplog.at_level("WARNING", logger="infomax"):
        list(trained(model_of("InfoNCE"), steps=2))
    assert not caplog.records


# ----------------------------------------------------------------------------------------------------------- precision


class Looks(im.DV):
    """DV that remembers the precision of its scores."""

    seen: torch.dtype | None = None

    def surrogate(self, s):
        Looks.seen = getattr(s, "dtype", Looks.seen)  # placeholders have none
        return super().surrogate(s)


def test_in_bf16_the_encoder_runs_and_scores_stay_float32():
    seen = []
    model = model_of(Looks())
    model.encoder[1].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    steps = list(trained(model, steps=2, by=accelerator(mixed_precision="bf16")))
    assert seen == [torch.bfloat16] * 2
    assert Looks.seen == torch.float32
    assert {value.dtype for value in weights(model).values()} == {torch.float32}
    exact = list(trained(model_of("DV"), steps=2))
    assert [step.mi for step in steps] == pytest.approx([step.mi for step in exact], abs=0.05)
    assert steps[0].mi != exact[0].mi


# ----------------------------------------------------------------------------------------------------------- processes


def cases():
    """What is trained on 1 and on 2 processes: every objective, and a timm encoder without BatchNorm."""
    for name in REGISTERED:
        yield name, model_of(name, lambda: InDouble(perceptron())).double()
    yield "resnet", model_of("SMILE", lambda: InDouble(im.encoder("resnet10_small_gn", in_chans=1))).double()


def outcomes(by):
    found = {}
    for name, model in cases():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        steps = im.train(model, pairs(), optimizer, warmup_cosine(10, 2), by, steps=3)
        numbers = [[step.mi, step.surrogate, step.gradient_norm] for step in steps]
        found[name] = {"steps": torch.tensor(numbers), **weights(model)}
    return found


class BrokenOnRank1:
    """A loader whose second process meets a sample that is not a number."""

    batch_size = N

    def __len__(self):
        return 3

    def at(self, step, rank, world, device):
        view1, view2, ids = pairs().at(step, rank, world, device)
        if rank == 1 and step == 1:
            view1[0] = math.nan
        return view1, view2, ids


def worker(folder: Path) -> None:
    torch.set_num_threads(1)
    by = launch.make_accelerator()
    assert by.num_processes == 2
    torch.save(outcomes(by), folder / f"{by.process_index}.pt")
    model = model_of("SMILE")
    try:
        for _ in im.train(
            model, BrokenOnRank1(), torch.optim.SGD(model.parameters(), lr=0.1), lambda step: 1.0, by, steps=3
        ):
            reached = weights(model)
    except NonFinite as error:
        (folder / f"{by.process_index}.txt").write_text(f"{same(reached, weights(model))} {error}")
    launch.leave(by)


@pytest.mark.slow
def test_one_and_two_processes_take_the_same_steps(on_processes, tmp_path):
    on_processes(2, __file__)
    one = outcomes(accelerator())
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, expected in one.items():
        for found in both:
            for key, value in expected.items():
                torch.testing.assert_close(
                    found[name][key], value, rtol=1e-6 if key == "steps" else 1e-8, atol=1e-9, msg=f"{name} {key}"
                )
    for rank in (0, 1):  # both stop, at the same step, with the same weights, though one of them met the number
        assert (
            (tmp_path / f"{rank}.txt").read_text().startswith("True Training stopped at step 2: the surrogate is nan")
        )


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
