"""Networks that give maps alone: their features are a mean of places, in Deep InfoMax, checkpoints and probes."""

import json

import pytest
import timm
import torch
from test_training import weights as state
from torch import nn

import infomax as im
from infomax import checkpoints, data, encoders
from infomax.maps import places_of

SMALL = {"channels": [8, 12, 16, 32], "stem_width": 8}


def features_only(**more):
    torch.manual_seed(0)
    return im.encoder("resnet10_small_gn", 1, features_only=True, **SMALL, **more)


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1))


def deep_infomax(encoder, width, places, **more):
    one, other = (encoders.Projector(size, hidden=8, out=4, norm="layer") for size in (width, places))
    return im.DeepInfoMax(encoder, one, other, im.Cosine(0.2), im.InfoNCE(), **more)


def images(n=6, side=28):
    return torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("side", [28, 32])
def test_patches_are_of_the_last_map_but_one_and_the_summary_is_the_mean_of_the_last(side):
    encoder = features_only()
    maps = encoder.network(images(side=side))  # pyright: ignore[reportCallIssue]
    assert encoders.features_of(encoder) == 32 and len(maps) == 5
    assert torch.allclose(encoder(images(side=side)), maps[-1].mean((2, 3)), atol=1e-6)
    shape = (1, side, side)
    for layer, used in ((None, maps[3]), ("maps.2", maps[2]), ("layer2", maps[2]), ("network.layer4", maps[4])):
        assert encoders.map_width(encoder, shape, layer) == used.shape[1]
        model = deep_infomax(encoder, 32, used.shape[1], layer=layer, globally=False)
        (local,) = model.sides([images(side=side)], None)
        rows = model.patch_projector(used.flatten(2).transpose(1, 2).flatten(0, 1))  # pyright: ignore
        assert torch.allclose(local.x, rows, atol=1e-6)
        assert torch.allclose(local.y, model.projector(maps[-1].mean((2, 3))), atol=1e-6)


def test_a_timm_network_and_any_module_of_maps_are_taken_as_they_are():
    network = timm.create_model("resnet18", features_only=True, in_chans=1)
    model = deep_infomax(network, 512, 256)
    assert isinstance(model.encoder, encoders.MapEncoder) and model.encoder.network is network
    assert {each.name for each in model.sides([images(side=32)] * 2, None)} == {"local", "global"}
    assert deep_infomax(network, 512, 256, local=False).encoder(images(side=32)).shape == (6, 512)
    plain = convolutions()
    model = deep_infomax(plain, 8, 8)
    found = plain(images())
    assert encoders.map_width(plain, (1, 28, 28)) == 8
    assert torch.allclose(model.encoder(images()), found.mean((2, 3)), atol=1e-6)
    assert torch.allclose(model._map(images())[1], found.flatten(2).transpose(1, 2))
    named = deep_infomax(plain, 8, 6, layer="1")  # a plain module whose layer is named has to end in features itself
    with pytest.raises(im.UserError, match="pool a map, as encoders"):
        named([images()] * 2)
    model = deep_infomax(encoders.MapEncoder(plain), 8, 6, layer="1")
    assert model._map(images())[1].shape == (6, 14 * 14, 6)


def test_channels_that_stand_last_are_channels():
    network = timm.create_model("swin_tiny_patch4_window7_224", features_only=True, img_size=32, in_chans=1)
    encoder = encoders.MapEncoder(network).eval()
    found = network.eval()(images(side=32))
    assert found[2].shape[1] == found[2].shape[2] and encoder(images(side=32)).shape == (6, 768)
    assert encoders.map_width(encoder, (1, 32, 32)) == 384
    assert torch.allclose(places_of(encoder, found[2], "maps.2"), found[2].flatten(1, 2))


def trained(model, steps=3):
    dataset = data.dataset("digits", limit=200)
    loader = data.PairLoader(dataset.train, data.views_for(dataset), 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    accelerator = im.launch.make_accelerator()
    values = [step.mi for step in im.train(model, loader, optimizer, lambda _: 1.0, accelerator, steps=steps)]
    return dataset, values


def test_a_run_of_maps_is_saved_loaded_and_probed(tmp_path):
    model = deep_infomax(features_only(), 32, 16)
    dataset, _ = trained(model)
    configuration = {"dataset": "digits", "limit": 200}
    with checkpoints.open_run(tmp_path / "run", "run", configuration) as run:
        run.save(3, model, torch.optim.SGD(model.parameters(), lr=0.1))
    found = im.load(tmp_path / "run")
    assert all(torch.equal(value, state(found)[key]) for key, value in state(model).items())
    model.eval()
    batch = images(side=8)
    assert torch.equal(found.encoder(batch), model.encoder(batch))
    assert torch.equal(found([batch] * 2), model([batch] * 2))
    probed = im.evaluation.probes(tmp_path / "run").trained
    assert probed.accuracy == im.probe(model.encoder, dataset).accuracy > 0.15
    # timm's own form of it would give maps, so there is none.
    assert not (next((tmp_path / "run").glob("step-*")) / "encoder").exists()
    with pytest.raises(im.UserError, match="it is not saved in timm's form"):
        encoders.save_timm(found.encoder, tmp_path / "timm", [0.0], [1.0], (1, 8, 8))
    assert json.loads(json.dumps(encoders.encoder_config(found.encoder)))["arguments"]["features_only"] is True


def test_a_plain_module_of_maps_is_filled_by_its_owner_and_probed(tmp_path):
    model = deep_infomax(convolutions(), 8, 8)
    dataset, values = trained(model)
    assert all(torch.tensor(values).isfinite())
    with checkpoints.open_run(tmp_path / "run", "run", {"dataset": "digits"}) as run:
        run.save(3, model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(im.UserError, match="was not made by infomax"):
        im.load(tmp_path / "run")
    again = deep_infomax(convolutions(), 8, 8)
    checkpoints.read(tmp_path / "run").restore(again)
    assert all(torch.equal(value, state(again)[key]) for key, value in state(model).items())
    assert im.probe(again.encoder.eval(), dataset).accuracy == im.probe(model.encoder.eval(), dataset).accuracy


def test_what_gives_no_maps_is_a_sentence():
    flat = deep_infomax(nn.Sequential(nn.Flatten(), nn.Linear(784, 8)), 8, 8)
    with pytest.raises(im.UserError, match=r"shows no feature map.* and it gives \[12, 8\]\. Name .* local=False"):
        flat([images()] * 2)
    with pytest.raises(im.UserError, match="has no part 'layer9'; its parts: conv1, "):
        deep_infomax(features_only(), 32, 16, layer="layer9")
    with pytest.raises(im.UserError, match=r"2 feature maps .* and it gives"):
        encoders.MapEncoder(convolutions(), count=2)(images())
