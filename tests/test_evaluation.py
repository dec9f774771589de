"""MI of an encoder's features: finite by construction, capped, and consistent along its layers."""

import math

import pytest
import torch
from test_audit import at
from torch import nn

import infomax as im
from infomax import ui
from infomax.data import from_tensors
from infomax.estimation import Budget
from infomax.evaluation import Subject, information, mosaics, mutual_information, probing, processing, subject
from infomax.evaluation import layers as layer_rows
from infomax.evaluation.result import Chain, Terms

ONCE = {"objective": "InfoNCE", "budget": Budget(steps=60, learning_rate=0.02), "critic": "Separable(hidden=8, out=4)"}


@pytest.fixture(scope="module")
def halves():
    """Two classes of 8 x 8 images, bright above or below: 200 to train on, 100 to test on."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 2
    x = torch.randint(0, 100, (300, 1, 8, 8), generator=generator, dtype=torch.uint8)
    x[y == 0, :, :4] += 100
    x[y == 1, :, 4:] += 100
    return from_tensors(x[:200], y[:200], x[200:], y[200:], name="halves")


class Rows(nn.Module):
    """The mean of each row of pixels: [b, 8]."""

    def forward(self, x):
        return x.mean((1, 3))


@pytest.mark.slow
def test_terms_of_an_encoder_are_capped_and_named(halves):
    said = []
    found = mutual_information(Rows(), halves, said=said.append, **ONCE)
    assert found.label.cap == pytest.approx(math.log(2))
    assert found.label.mi == pytest.approx(math.log(2), abs=0.15)
    assert 0.3 < found.noise.mi < found.noise.cap + 0.3 and found.noise.cap <= 4.5
    assert found.noise.protocol["noise"]["capacity"] == found.noise.cap
    assert 0.2 < found.noisy_views.mi < found.noise.mi and found.noisy_views.cap <= 4.5
    assert [name for name, _ in found.chain.layers] == ["pixels", "features"]
    assert found.chain.layers[1][1] is found.mi
    assert len(said) == 6
    assert found.to_dict().keys() >= {"mi", "interval", "label", "noise", "noisy_views", "chain"}
    assert mutual_information(Rows(), halves, terms=False, **ONCE).to_dict() == found.mi.to_dict()


THIRDS = (torch.arange(150), torch.arange(150, 200), torch.arange(100))


@pytest.mark.slow
def test_mosaics_are_found_by_a_method_that_learns_and_by_no_other(halves, monkeypatch):
    monkeypatch.setattr(mosaics, "MOSAICS", (2000, 500, 500))
    told = mosaics.mosaics(
        subject(Rows(), halves), at(2.0), im.data.views_for(halves), THIRDS,
        {"seed": 0, "device": "cpu", "critic": "Bilinear"},
    )  # fmt: skip
    assert told.verdict != "fail", told
    found = mosaics.mosaics(
        subject(Rows(), halves), at(2.0), im.data.views_for(halves), THIRDS,
        {"seed": 0, "device": "cpu", "objective": "InfoNCE", "critic": "Bilinear", "budget": Budget(steps=0)},
    )  # fmt: skip
    assert found.verdict == "fail" and "does not find" in found.sentence


def test_a_later_layers_critic_is_taken_where_it_reads_more():
    own = [("pixels", at(1.0)), ("layer1", at(0.5)), ("features", at(2.0)), ("projection", at(1.5))]
    found = dict(information.composed(own))
    assert [found[name].mi for name, _ in own] == [2.0, 2.0, 2.0, 1.5]
    assert found["features"] is own[2][1] and found["projection"] is own[3][1]
    assert found["layer1"].protocol["composed"] == "features" and found["pixels"].protocol["composed"] == "features"
    assert found["pixels"].protocol["own_critic"] == {"mi": 1.0, "trusted": own[0][1].trusted}
    assert found["pixels"].interval == own[2][1].interval
    falling = [("pixels", at(3.0)), ("features", at(2.0))]
    assert information.composed(falling) == falling


def test_a_layer_says_whose_critic_its_value_is(capsys):
    layers = information.composed(
        [("pixels", 0.7), ("layer1", at(0.5)), ("features", at(2.0)), ("projection", at(1.5))]
    )
    ui.print_terms(Terms(at(2.0), chain=Chain(tuple(layers), processing(layers))))
    shown = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert all(shown[name].endswith(", by the critic of features") for name in ("pixels", "layer1"))
    assert not any("by the critic" in shown[name] for name in ("features", "projection"))


def test_a_layer_without_a_critic_of_its_own_has_the_next_ones():
    layers = [("pixels", 0.7), ("layer1", at(2.5)), ("layer2", 1.1), ("features", at(2.0)), ("projection", at(1.5))]
    found = dict(information.composed(layers))
    assert [found[name].mi for name, _ in layers] == [2.5, 2.5, 2.0, 2.0, 1.5]
    assert found["layer2"].protocol["own_critic"] == {"gaussian_on_validation": 1.1}
    assert found["pixels"].protocol["composed"] == "layer1" and "composed" not in found["layer1"].protocol
    check = processing(layers)
    assert check.verdict == "pass" and "Of pixels, layer2 no critic was fitted" in check.sentence
    alone = processing([("pixels", 0.7), ("features", at(2.0))])
    assert alone.verdict == "pass" and "Of pixels no critic" in alone.sentence


@pytest.mark.slow
def test_a_layer_that_knows_more_than_features_has_a_critic_of_its_own(halves):
    class First(Rows):
        """What one row of pixels says: far less than all of them."""

        def forward(self, x):
            return super().forward(x)[:, :1]

    found = dict(mutual_information(First(), halves, **ONCE).chain.layers)
    assert "composed" not in found["pixels"].protocol and found["pixels"].mi > found["features"].mi


def test_the_chain_fires_where_a_later_layer_has_more():
    assert processing([("pixels", at(3.0)), ("features", at(2.0))]).verdict == "pass"
    assert processing([("pixels", at(3.0)), ("features", at(3.1)), ("projection", at(1.0))]).verdict == "pass"
    fired = processing([("pixels", at(1.0)), ("layer1", at(0.5)), ("features", at(2.0))])
    assert fired.verdict == "fail" and "features (2.00) is a function of layer1 (0.50)" in fired.sentence
    assert processing([("pixels", at(2.0, 0.3)), ("features", at(2.3, 0.3))]).verdict == "warn"
    both = processing([("pixels", at(1.0, 0.1)), ("layer1", at(1.3, 0.01)), ("features", at(1.6, 2.0))])
    assert both.verdict == "fail" and "layer1" in both.sentence, "a larger excess that may be noise hides nothing"


def test_without_labels_there_is_a_reason(halves):
    assert information.or_why(lambda: information._label([], [(Bare(), torch.arange(2))], [], {})) == (
        "The data set has no labels."
    )


class Bare:
    labels = None


def test_a_mosaics_bits_have_the_mi_that_is_asked_for():
    for nats in (0.01, 0.3, 0.69):
        assert mosaics.bit(mosaics._flips(nats)) == pytest.approx(nats, abs=1e-6)
    assert mosaics.bit(0.0) == math.log(2) and mosaics.bit(0.5) == pytest.approx(0, abs=1e-12)
    assert mosaics._both(0.1, 0.1) == pytest.approx(0.18)


@pytest.mark.parametrize(("name", "last"), [("resnet10_tiny", "layer4"), ("vit_tiny_patch16_224", "blocks.11")])
def test_layers_are_apart_and_leave_no_hooks(name, last):
    encoder = im.encoder(name, **({"img_size": 32} if "vit" in name else {})).eval()
    layers = layer_rows.Layers(encoder, nn.Linear(encoder.num_features, 3))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = layers.apart([layers(images)])
        assert torch.allclose(found["features"][0], encoder(images), atol=1e-5)
        # Each is a function of the one before it alone: the last stage decides the projection.
        assert torch.allclose(found["projection"][0], layers.projector(found["features"][0]), atol=1e-5)
    assert next(iter(found)) == "pixels" and list(found)[-3:] == [last, "features", "projection"]
    assert all(side[0].shape[1] <= 2 * layer_rows.COLUMNS for side in found.values())
    assert not any(module._forward_hooks for module in encoder.modules())


class InPlace(nn.Module):
    """Layers that write into what they read, one that never runs, and their names in another order than they run."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(72, 4)
        self.relu = nn.ReLU(inplace=True)
        self.unused = nn.Linear(3, 3)
        self.bn = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(1, 8, 3, 2)

    def forward(self, images):
        return self.last(self.relu(self.bn(self.conv(images.sub_(0.5)))).flatten(1))


def test_layers_are_as_they_were_and_in_the_order_in_which_they_run():
    torch.manual_seed(0)
    encoder = InPlace().eval()
    layers = layer_rows.Layers(encoder, nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)), ["last", "relu", "bn"])
    images = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        normal = encoder.bn(encoder.conv(images - 0.5))
        found = layers.apart([layers(images.clone())])
    assert list(found) == ["pixels", "bn", "relu", "last", "features", "projection"]
    assert torch.equal(found["pixels"][0], images.flatten(1))
    assert torch.equal(found["bn"][0], normal.flatten(1)) and torch.equal(found["relu"][0], normal.relu().flatten(1))
    assert torch.equal(found["features"][0], found["last"][0]) and (found["features"][0] < 0).any()


def test_a_shared_layer_goes_by_either_name_and_stages_that_come_late_are_refused():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(1, 2, 3)
            self.b = self.a

        def forward(self, x):
            return self.a(x).flatten(1) if len(x) > 1 else torch.zeros(1, 72)

    images = torch.rand(3, 1, 8, 8)
    named = layer_rows.Layers(Shared(), None, ["b"])
    assert named.apart([named(images)])["b"][0].shape[0] == 3
    late = layer_rows.Layers(Shared(), None, ["a"])
    late.asked = False  # as stages that timm names are
    late(images[:1])
    with pytest.raises(im.UserError, match="'a' runs for some images and not for others"):
        late(images)


def test_a_layer_that_never_runs_is_refused(halves):
    layers = layer_rows.Layers(InPlace().eval(), None, ["conv", "unused"])
    with pytest.raises(im.UserError, match="has the layer 'unused', and no image is seen to pass it"), torch.no_grad():
        layers(torch.rand(5, 1, 8, 8))
    with pytest.raises(im.UserError, match="no image is seen to pass it"):
        mutual_information(InPlace(), halves, layers=["conv", "unused"], **ONCE)


def test_a_layer_that_runs_for_some_images_alone_is_refused():
    class Some(InPlace):
        def forward(self, images):
            return super().forward(images) if len(images) > 3 else self.last(images.new_zeros(len(images), 72))

    layers = layer_rows.Layers(Some().eval(), None)
    layers.stages = {"bn": None, "last": None}  # stages that timm names
    with torch.no_grad():
        layers(torch.rand(5, 1, 8, 8))
        with pytest.raises(im.UserError, match="The layer 'bn' runs for some images and not for others"):
            layers(torch.rand(2, 1, 8, 8))


def test_of_a_layer_that_runs_twice_it_is_the_first_output():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.step = nn.Linear(4, 4)

        def forward(self, images):
            return self.step(self.step(images.flatten(1)))

    encoder, images = Twice(), torch.rand(3, 1, 2, 2)
    layers = layer_rows.Layers(encoder, None, ["step"])
    with torch.no_grad():
        assert torch.equal(layers.apart([layers(images)])["step"][0], encoder.step(images.flatten(1)))


@pytest.mark.slow
def test_a_saved_run_brings_its_projector(finished):
    about = subject(finished[0])
    assert isinstance(about.projector, im.encoders.Projector)
    whole = im.load(finished[0])
    for own, other in zip(about.projector.parameters(), whole.projector.parameters(), strict=True):
        assert torch.equal(own, other)
    assert subject(whole, about.data).encoder is whole.encoder
    with pytest.raises(im.UserError, match="needs a dataset"):
        subject(whole)


# ------------------------------------------------------------------------------------------- a run's own views


OWN = im.data.Views(im.data.Policy(scale=(0.3, 0.9), rotate=30.0, noise=0.2, erase=0.5), (0.1,), (0.7,))


def small():
    torch.manual_seed(0)
    encoder = im.encoder("resnet10_small_gn", in_chans=1, channels=[2, 4, 4, 8], stem_width=2)
    projector = im.encoders.Projector(8, hidden=4, out=4, norm="layer")
    return im.InfoMax(encoder, projector, im.Cosine(0.3), im.InfoNCE())


def saved(folder, views=None, **more):
    kind = None if views is None else {**im.data.describe_views(views), "input_size": (1, 8, 8)}
    im.checkpoints.save(small(), folder, preprocessing=kind or more or None)
    return folder


def test_views_come_back_from_words(halves):
    for views in (OWN, im.data.views_for(halves)):
        words = im.data.describe_views(views)
        assert repr(im.data.views_from(words, halves)) == repr(views)
        assert words["views"] == repr(views.policy)
    named = im.data.views_from({"views": "digits"}, halves)
    assert named.policy == im.data.policies["digits"]() and (named.mean, named.std) == (halves.mean, halves.std)
    assert repr(im.data.views_from(None, halves)) == repr(im.data.views_for(halves))
    half = im.data.views_from({"mean": [0.1], "std": [0.2], "input_size": [1, 8, 8]}, halves)
    assert (half.policy, half.mean, half.std) == (im.data.views_for(halves).policy, (0.1,), (0.2,))


@pytest.mark.parametrize(
    "words",
    [
        {"views": 3}, {"views": "os:system('x')"}, {"views": "Policy(rotate=900)"}, {"views": "Policy(wings=2)"},
        {"mean": "0", "std": "1"}, {"mean": [0.0], "std": [0.0]}, {"mean": [10**400], "std": [1]},
        {"mean": 1, "std": 1}, {"mean": [0.0], "std": [float("nan")]}, {"mean": [True], "std": [1.0]},
        {"mean": [0.0, 0.0], "std": [1.0]},
    ],
)  # fmt: skip
def test_odd_words_of_views_are_refused(halves, words):
    with pytest.raises(im.UserError):
        im.data.views_from(words, halves)


@pytest.mark.slow
def test_a_run_is_evaluated_on_its_own_views_and_normalisation(halves, tmp_path):
    own, default, bare = (saved(tmp_path / name, v) for name, v in
                          (("own", OWN), ("default", im.data.views_for(halves)), ("bare", None)))  # fmt: skip
    encoder = im.checkpoints.load_encoder(own)
    found = {path: mutual_information(path, halves, terms=False, **ONCE).to_dict() for path in (own, default, bare)}
    # To the bit what views_for() gives, as before there was anything to read back.
    assert found[default] == found[bare] == mutual_information(small(), halves, terms=False, **ONCE).to_dict()
    assert found[own]["mi"] != found[default]["mi"]
    direct = Subject(encoder, small().projector, halves, None, OWN, small().critic)
    assert found[own] == mutual_information(direct, terms=False, **ONCE).to_dict()
    given, chosen = im.evaluation.probes(own, halves), im.evaluation.probes(bare, halves)
    assert given.trained == im.probe(own, halves) == im.probe(encoder, halves, views=OWN)
    sides = [probing.features(encoder, split, OWN.plain) for split in (halves.train, halves.test)]
    assert given.trained == probing.probe_features(sides[0], halves.train.labels, sides[1], halves.test.labels)
    assert chosen.trained == im.probe(encoder, halves) == im.evaluation.probes(default, halves).trained
    apart = [probing.features(encoder, halves.test, views.plain) for views in (OWN, im.data.views_for(halves))]
    assert not torch.allclose(*apart)
    assert given.trained.accuracy != chosen.trained.accuracy
    assert given.pixels == im.probe(nn.Flatten(), halves, views=OWN)


def test_another_policy_is_not_resumed_and_a_run_that_names_none_goes_on(tmp_path):
    kind = {**im.data.describe_views(OWN), "input_size": [1, 8, 8]}
    im.checkpoints.save(small(), tmp_path / "run", preprocessing={k: v for k, v in kind.items() if k != "views"})
    im.checkpoints.save(small(), tmp_path / "run", preprocessing=kind)
    assert im.checkpoints.read(tmp_path / "run").preprocessing == kind
    with pytest.raises(im.UserError, match=r'preprocessing\.views is "Policy\(.*" there and "Policy\(.*" here'):
        im.checkpoints.save(small(), tmp_path / "run", preprocessing={**kind, "views": repr(im.data.Policy())})


@pytest.mark.slow
def test_mi_is_kept_where_nothing_can_be_probed(halves, capsys):
    from infomax import ui

    for labels, why in ((None, "has no labels"), (torch.zeros(200, dtype=torch.int64), "has the label 0")):
        images = from_tensors(
            halves.train.images, labels, halves.test.images, None if labels is None else labels[:100], name="bare"
        )
        found = im.evaluate(Rows(), images, terms=False)
        assert isinstance(found.probes, str) and why in found.probes
        assert found.mi == mutual_information(Rows(), images, terms=False).mi
        written = found.to_dict()
        assert why in written["probe"]["not_measured"] and written["estimate"]["mi"] == found.mi.mi
        ui.print_evaluation(found.probes, found.mi)
        told = " ".join(capsys.readouterr().out.split())
        assert told.startswith(f"Probes: not measured: {found.probes}") and "I(Z1; Z2) of two views: " in told


def test_too_few_images_for_one_measure_leave_the_others(halves, capsys):
    from infomax import ui

    few = from_tensors(
        halves.train.images[:30], halves.train.labels[:30], halves.test.images[:16], halves.test.labels[:16], name="few"
    )
    why = "There are 30 training and 16 held-out images, and I(Z1; Z2) takes 31 and 10 or more: add images."
    found = im.evaluate(Rows(), few, terms=False)
    assert found.mi == why and not isinstance(found.probes, str) and found.identity.among == 16
    written = found.to_dict()
    assert written["estimate"]["not_measured"] == why and written["estimate"]["identity"]["among"] == 16
    assert written["probe"]["accuracy"] == found.probes.trained.accuracy
    ui.print_results(found, "there", "Health of all.")
    told = " ".join(capsys.readouterr().out.split())
    assert f"I(Z1; Z2) of two views: not measured: {why}" in told and "Health of all. Saved in there I(J; Z)" in told
    assert "trained encoder" in told and f"I(Z1; Z2): {why}" in str(found)
    with pytest.raises(im.UserError, match="I\\(Z1; Z2\\) takes 31 and 10 or more"):
        im.evaluation.views_mi(Rows(), few)


@pytest.mark.parametrize("of", [im.evaluate, im.probe, im.evaluation.probes, mutual_information])
def test_what_is_no_data_set_is_told_how_to_become_one(halves, of):
    x, y = halves.train.images, halves.train.labels
    tensors = torch.utils.data.TensorDataset(x, y)
    for given in (torch.utils.data.DataLoader(tensors), tensors, (x, y), x):
        said = rf"a {type(given).__name__} is neither\. .*im\.data\.from_tensors\(train_images, train_labels, test_im"
        with pytest.raises(im.UserError, match=said):
            of(Rows(), given)


def test_each_term_says_how_many_images_it_takes(halves):
    few = from_tensors(halves.train.images[:30], None, halves.test.images[:12], None, name="few")
    found = mutual_information(Rows(), few)
    takes = {name: str(getattr(found, name)) for name in ("label", "noise", "noisy_views", "chain", "identity")}
    assert "I(Z; label) takes 64 and 10 or more" in takes["label"], takes
    assert "I(X; Z + noise) takes 64 and 10 or more" in takes["noise"], takes
    assert "I(Z1 + noise; Z2 + noise) takes 31 and 10 or more" in takes["noisy_views"], takes
    assert takes["chain"] == found.mi and "I(J; Z) takes 16 or more" in takes["identity"], takes
    enough = from_tensors(halves.train.images[:31], None, halves.test.images[:10], None, name="enough")
    assert math.isfinite(mutual_information(Rows(), enough, terms=False).mi.mi)
