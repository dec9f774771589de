"""Encoders: what they return, and that a saved one comes back the same, by timm and by us."""

import json

import pytest
import timm
import torch
from timm.data import resolve_model_data_config

from infomax.encoders import Projector, encoder, encoder_config, encoder_from, features_of, save_timm
from infomax.errors import UserError

OURS = (
    "resnet10_tiny",
    "resnet10_small_gn",
    "resnet10t_small",
    "resnet18_small",
    "resnet34_small",
    "resnet50_small",
)
NARROW = {"channels": (8, 16, 24, 32), "stem_width": 8}  # enough to test a form, cheaply


def small(name: str, in_chans: int = 1) -> torch.nn.Module:
    model = encoder(name, in_chans=in_chans, **NARROW)
    model(torch.randn(8, in_chans, 28, 28))  # running statistics that differ from a new model's
    return model.eval()


@pytest.mark.parametrize("name", OURS)
def test_our_variants_have_a_small_stem_and_no_pool(name):
    with torch.device("meta"):
        model = encoder(name, in_chans=3)
    assert model.conv1.kernel_size == (3, 3)
    assert isinstance(model.maxpool, torch.nn.Identity)
    stride = 2 if name in ("resnet10_tiny", "resnet10_small_gn") else 1
    assert model.conv1.stride == (stride, stride)
    assert name in timm.list_models()
    images = torch.empty(2, 3, 32, 32, device="meta")
    assert model(images).shape == (2, features_of(model))
    assert model.forward_features(images).shape[-1] == 32 // stride // 8


@pytest.mark.parametrize("name", ["resnet10_tiny", "resnet18_small"])
def test_features_only_states_the_true_strides(name):
    model = timm.create_model(name, features_only=True, in_chans=1, **NARROW)
    maps = model(torch.randn(1, 1, 32, 32))
    assert [32 // m.shape[-1] for m in maps] == model.feature_info.reduction()
    assert [m.shape[1] for m in maps] == model.feature_info.channels()


@pytest.mark.parametrize("in_chans", [1, 2, 3])
@pytest.mark.parametrize("name", ["resnet10_tiny", "resnet50_small", "resnet10_small_gn"])
def test_saved_encoder_gives_the_same_features_through_timm(name, in_chans, tmp_path):
    model = small(name, in_chans).to(memory_format=torch.channels_last)
    mean, std = [0.1, 0.2, 0.3][:in_chans], [0.4, 0.5, 0.6][:in_chans]
    save_timm(model, tmp_path, mean, std, (in_chans, 28, 28))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    images = torch.randn(4, in_chans, 28, 28)
    expected = model(images)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(loaded.to(memory_format=torch.channels_last)(images), expected)
    data = resolve_model_data_config(loaded)
    assert [list(data[key]) for key in ("mean", "std", "input_size")] == [mean, std, [in_chans, 28, 28]]
    ours = encoder(f"local-dir:{tmp_path}", in_chans=in_chans, pretrained=True).eval()
    assert torch.equal(ours.to(memory_format=torch.channels_last)(images), expected)
    assert encoder_config(ours) == encoder_config(model)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet10t", {}),
        ("mobilenetv3_small_050", {}),  # its features are wider than num_features says
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 1}),
    ],
)
def test_timms_own_models_are_saved_too(name, arguments, tmp_path):
    model = encoder(name, in_chans=1, **arguments).eval()
    images = torch.randn(2, 1, 32, 32)
    expected = model(images)
    assert expected.shape == (2, features_of(model))
    save_timm(model, tmp_path, [0.5], [0.5], (1, 32, 32))
    assert torch.equal(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(images), expected)


def test_config_rebuilds_the_architecture_through_json():
    model = small("resnet10_tiny")
    config = json.loads(json.dumps(encoder_config(model)))
    again = encoder_from(config).eval()
    again.load_state_dict(model.state_dict())
    images = torch.randn(3, 1, 28, 28)
    assert torch.equal(again(images), model(images))
    assert encoder_config(again) == config


def test_group_norm_variant_does_not_see_the_batch():
    model = small("resnet10_small_gn").double().train()
    images = torch.randn(4, 1, 28, 28, dtype=torch.float64)
    assert torch.allclose(model(images)[:1], model(images[:1]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: encoder("resnet10_tny"), "'resnet10_tiny'"),
        (lambda: encoder("resnet10_tiny", in_chans=0), "in_chans=0"),
        (lambda: encoder("resnet10_tiny", foo=3), "foo"),
        (lambda: encoder("resnet10_tiny", num_classes=10), "num_classes"),
        (lambda: encoder("resnet10_tiny", pretrained=True), "pretrained weights"),
        (lambda: encoder("local-dir:/no/such/folder"), "/no/such/folder"),
        (lambda: encoder_config(torch.nn.Linear(2, 2)), "Linear"),
        (lambda: encoder_config(encoder("resnet10_tiny", **NARROW, act_layer=torch.nn.SiLU)), "JSON"),
        (lambda: encoder_from({"name": "resnet10_tiny"}), "keys"),
        (lambda: features_of(torch.nn.Linear(2, 2)), "num_features"),
        (lambda: save_timm(small("resnet10_tiny"), "/dev/null/x", [0.1] * 3, [1.0] * 3, (3, 28, 28)), "1 channels"),
        (lambda: Projector(0), "in_features"),
        (lambda: Projector(8, norm="instance"), "'instance'"),
    ],
)
def test_mistakes_are_told_in_a_sentence(make, words):
    with pytest.raises(UserError) as error:
        make()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_truncated_file_is_refused(tmp_path):
    save_timm(small("resnet10_tiny"), tmp_path, [0.5], [0.5], (1, 28, 28))
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="could not be loaded"):
        encoder(f"local-dir:{tmp_path}", in_chans=1, pretrained=True)


@pytest.mark.parametrize("text", ["Projector(16, hidden=32, out=8)", "Projector(16, hidden=32, out=8, norm='layer')"])
def test_projector(text):
    projector = eval(text)
    assert repr(projector) == text
    x = torch.randn(5, 16)
    out = projector(x)
    assert out.shape == (5, 8)
    # A layer norm sees its own row only, a batch norm all of them.
    assert torch.allclose(projector(torch.cat((x[:1], x[:4] * 3)))[:1], out[:1], atol=1e-5) == ("layer" in text)
