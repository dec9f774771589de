"""Encoders that start from weights and keep some: all of them fit or one sentence says why; what is frozen stays."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

import infomax as im
from infomax import checkpoints, encoders
from infomax.encoders import encoder, freeze, load_weights, save_timm, started_from
from infomax.errors import UserError
from infomax.training.loop import _unused

TINY = "resnet10_small_gn"
BATCHNORM = "resnet10_tiny"
NARROW = {"channels": (8, 8, 16, 16), "stem_width": 8}


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


@pytest.fixture
def saved(tmp_path):
    """An encoder, its folder in timm's form, and a bare file of its weights with a classifier."""
    torch.manual_seed(1)
    model = encoder(BATCHNORM, in_chans=1, **NARROW)
    save_timm(model, tmp_path / "timm", [0.5], [0.5], (1, 28, 28))
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file({**weights, "fc.weight": torch.ones(10, 16), "fc.bias": torch.ones(10)}, tmp_path / "w.safetensors")
    return model, tmp_path


@pytest.mark.parametrize("place", ["local-dir:{}/timm", "{}/timm", "{}/timm/model.safetensors", "{}/w.safetensors"])
def test_all_weights_are_those_of_the_file(place, saved):
    model, folder = saved
    made = encoder(BATCHNORM, in_chans=1, pretrained=place.format(folder), **NARROW)
    assert same(made, model) and not same(encoder(BATCHNORM, in_chans=1, **NARROW), model)
    assert started_from(made).startswith("weights ") and ", sha256 " in started_from(made)
    assert started_from(model) is None


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_the_first_convolution_is_brought_to_other_channels_as_timm_does(channels, tmp_path):
    torch.manual_seed(1)
    model = encoder(BATCHNORM, in_chans=3, **NARROW)
    save_timm(model, tmp_path, [0.5] * 3, [0.5] * 3, (3, 28, 28))
    ours = encoder(BATCHNORM, in_chans=channels, pretrained=f"local-dir:{tmp_path}", **NARROW)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=channels)
    assert same(theirs, ours)
    grey = encoder(BATCHNORM, in_chans=1, pretrained=str(tmp_path), **NARROW)
    assert torch.allclose(grey.conv1.weight, model.conv1.weight.sum(1, keepdim=True))


def test_weights_that_do_not_fit_are_one_sentence_and_change_nothing(saved, tmp_path):
    model, folder = saved
    wide = encoder(BATCHNORM, in_chans=1)
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file({f"encoder.{name}": value for name, value in weights.items()}, tmp_path / "run.safetensors")
    save_file({k: v for k, v in weights.items() if "layer2" not in k}, tmp_path / "less.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((folder / "w.safetensors").read_bytes()[:-50])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    torch.save(weights, tmp_path / "pickle.pth")
    (tmp_path / "nothing").mkdir()
    for target, file, words in (
        (wide, "w.safetensors", r"those of this SmallResNet: \d+ have other shapes, as conv1.weight, \[8, 1, 3, 3\]"
                                r" there and \[32, 1, 3, 3\] here"),
        (encoder("resnet18_small", 1), "w.safetensors", r"63 of 120 are missing, as layer1.1.conv1.weight"),
        (model, "less.safetensors", r"of \d+ are missing, as layer2"),
        (model, "run.safetensors", "a checkpoint's folder holds its encoder alone in encoder/"),
        (model, "cut.safetensors", "cannot be read"),
        (model, "empty.safetensors", "cannot be read"),
        (model, "pickle.pth", "is no .safetensors file"),
        (model, "none.safetensors", "There is no file of weights"),
        (model, "nothing", r"There is no file of weights \S+nothing/model.safetensors"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words) as caught:
            load_weights(target, tmp_path / file)
        assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in wide.state_dict().items())


@pytest.mark.parametrize(
    ("name", "arguments", "stages", "frozen", "free"),
    [
        (BATCHNORM, NARROW, 2, ["conv1.weight", "bn1.bias", "layer2.0.conv2.weight"], ["layer3.0.conv1.weight"]),
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 3}, 1,
         ["pos_embed", "cls_token", "blocks.0.attn.qkv.weight"], ["blocks.1.attn.qkv.weight", "norm.weight"]),
        ("convnext_atto", {}, 1, ["stem.0.weight", "stages.0.blocks.1.gamma"], ["stages.1.blocks.0.gamma"]),
    ],
)  # fmt: skip
def test_the_stem_and_the_first_stages_are_frozen_and_it_is_said(name, arguments, stages, frozen, free, caplog):
    model = encoder(name, in_chans=1, **arguments)
    freeze(model, 0)
    assert all(p.requires_grad for p in model.parameters()) and not caplog.text
    freeze(model, stages)
    parameters = dict(model.named_parameters())
    assert not any(parameters[name].requires_grad for name in frozen)
    assert all(parameters[name].requires_grad for name in free)
    assert "Frozen: the stem, " in caplog.text and started_from(model).startswith("frozen: the stem, ")
    count = sum(p.numel() for p in parameters.values() if not p.requires_grad)
    assert f"({count:,} of {sum(p.numel() for p in parameters.values()):,} parameters)" in caplog.text


def test_too_many_stages_and_encoders_without_them_are_refused():
    model = encoder(BATCHNORM, in_chans=1, **NARROW)
    with pytest.raises(UserError, match="has a stem and 4, layer1, layer2, layer3, layer4"):
        freeze(model, 5)
    with pytest.raises(UserError, match="a whole number from 0, not -1"):
        freeze(model, -1)
    with pytest.raises(UserError, match="a MLP, does not tell its stages"):
        freeze(encoders.MLP(4), 1)


class _Loader:
    batch_size = 16

    def __len__(self):
        return 10

    def at(self, step, rank, world, device):
        g = torch.Generator().manual_seed(step)
        return torch.randn(16, 1, 16, 16, generator=g), torch.randn(16, 1, 16, 16, generator=g), torch.arange(16)


@pytest.mark.parametrize("microbatch", [None, 8])
@pytest.mark.parametrize("stages", [1, 4])
def test_frozen_weights_and_statistics_stay_and_the_rest_moves(stages, microbatch):
    from accelerate import Accelerator

    model = encoder(BATCHNORM, in_chans=1, **NARROW)
    freeze(model, stages)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = im.InfoMax(model, encoders.Projector(16, 16, 8), im.Cosine(0.2), im.InfoNCE(), microbatch=microbatch)
    first = [p.clone() for p in whole.projector.parameters()]
    optimizer = torch.optim.AdamW(whole.parameters(), lr=0.01, weight_decay=0.1)
    for _ in im.train(whole, _Loader(), optimizer, lambda step: 1.0, Accelerator(cpu=True), steps=3):
        pass
    kept = ("conv1", "bn1", *(f"layer{k + 1}." for k in range(stages)))
    for name, value in model.state_dict().items():
        still = name.startswith(kept)
        assert torch.equal(value, before[name]) == still or name.endswith("num_batches_tracked"), name
        if still:
            assert torch.equal(value, before[name]), name
    assert not any(torch.equal(p, q) for p, q in zip(first, whole.projector.parameters(), strict=True) if p.ndim == 2)


def test_frozen_parameters_are_none_that_a_loss_does_not_use():
    from accelerate import Accelerator

    model = encoder(BATCHNORM, in_chans=1, **NARROW)
    freeze(model, 4)
    whole = im.InfoMax(model, encoders.Projector(16, 16, 8), im.Cosine(0.2), im.InfoNCE())
    assert _unused(whole, _Loader(), Accelerator(cpu=True), 0) == {}


def test_a_momentum_encoder_keeps_what_is_frozen():
    model = encoder(BATCHNORM, in_chans=1, **NARROW)
    freeze(model, 2)
    moco = im.MoCo(model, encoders.Projector(16, 16, 8), im.Cosine(0.2), im.InfoNCE(), queue=32)
    moco.train()
    for part in (moco.encoder, moco.key_encoder):
        assert not part.layer2[0].bn1.training and part.layer3[0].bn1.training
    assert moco.key_encoder.train.__self__ is moco.key_encoder


@pytest.mark.slow
def test_a_run_from_weights_says_and_keeps_where_it_started_and_resumes(run, images, tmp_path, caplog):
    torch.manual_seed(5)
    model = encoder(TINY, in_chans=1)
    save_timm(model, tmp_path / "start", [0.5], [0.5], (1, 8, 8))
    short = ("simclr_smile", "--dataset", f"folder:{images}", "--encoder", TINY, "--batch-size", 16, "--steps", 4,
             "--save-every", 2, "--pretrained", f"local-dir:{tmp_path}/start", "--freeze", 4)  # fmt: skip
    ended = run(*short, "--run-dir", "a")
    assert ended.status == 0 and "Frozen: the stem, layer1, layer2, layer3, layer4" in caplog.text, ended.err
    kept = json.loads((tmp_path / "a/run.json").read_text())["configuration"]
    assert (
        kept["start"].startswith("weights model.safetensors, sha256 ") and "frozen: the stem, layer1" in kept["start"]
    )
    assert (kept["pretrained"], kept["freeze"]) == (f"local-dir:{tmp_path}/start", 4)
    assert same(checkpoints.load_encoder(tmp_path / "a"), model)
    probed = run("infomax", "probe", "a", "--json")
    assert probed.status == 0, probed.err
    # A frozen start probes as its weights alone do.
    expected = im.probe(model.eval(), f"folder:{images}", views=_views(tmp_path / "a", f"folder:{images}"))
    assert json.loads(json.dumps(expected.to_dict())).items() <= json.loads(probed.out).items()
    again = run(*short, "--run-dir", "a", "--resume", "--steps", 6)
    assert again.status == 0, again.err
    assert same(checkpoints.load_encoder(tmp_path / "a"), model)
    for other, words in (
        (("--freeze", 2), "freeze is 4 there and 2 here"),
        (("--pretrained", "timm"), "pretrained weights"),
    ):
        ended = run(*short, "--run-dir", "a", "--resume", *other)
        assert ended.status == 2 and words in ended.err, ended.err


def _views(folder, name):
    from infomax.data import dataset, views_from

    return views_from(checkpoints.read(folder).preprocessing, dataset(name))


@pytest.mark.slow
def test_mistakes_end_with_a_sentence_and_no_folder(run, images, tmp_path):
    save_timm(encoder(TINY, in_chans=1), tmp_path / "start", [0.5], [0.5], (1, 8, 8))
    short = ("simclr_smile", "--dataset", f"folder:{images}", "--batch-size", 16, "--steps", 2)
    for options, words in (
        (("--freeze", -1), "--freeze -1 is no number of stages: 0 freezes nothing, and N the stem and N stages."),
        (("--freeze", 2), "--freeze 2 keeps the weights that --pretrained gives"),
        (("--pretrained", "none.safetensors"), "There is no file of weights none.safetensors"),
        (("--pretrained", "start"), "are not those of this SmallResNet"),
        (("--pretrained", "timm"), "pretrained weights of encoder 'resnet10_tiny' could not be loaded"),
        (("--encoder", TINY, "--pretrained", "start", "--freeze", 7), "7 stages cannot be frozen"),
    ):
        ended = run(*short, *options)
        assert ended.status == 2 and len(ended.err.strip().splitlines()) == 1 and words in ended.err, ended.err
        assert not (tmp_path / "checkpoints").exists()
