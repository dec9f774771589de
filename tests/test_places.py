"""Signals by their places: StridedConv1d, and CPC that reads what an encoder's places() gives."""

import pytest
import torch

import infomax as im
from infomax import encoders


def test_a_place_sees_its_own_stretch_and_the_features_are_their_mean():
    encoder = encoders.StridedConv1d(2, 8, (4, 2)).eval()
    signals = torch.randn(3, 2, 50)
    found = encoder.places(signals)
    assert found.shape == (3, 7, 8) and encoder.stride == 8 and encoders.features_of(encoder) == 8
    assert torch.equal(encoder(signals), found.mean(1))
    changed = signals.clone()
    changed[:, :, 24:] += 1
    same = (encoder.places(changed) == found).all(2).all(0).tolist()
    assert same == [True, True, True, False, False, False, False], "place 3, in 24 to 31, is the first that knows"
    assert repr(encoder) == "StridedConv1d(channels=2, width=8, strides=(4, 2))"


def test_cpc_of_signals_is_that_of_the_sequences_of_their_places():
    encoder = encoders.StridedConv1d(2, 6, (4,))
    context, critic = encoders.CausalGRU(6, 7), im.Bilinear(7, 6)
    signals, ids = torch.randn(5, 2, 24), torch.arange(5)
    by_signals = im.CPC(encoder, context, critic, im.InfoNCE(), steps=2)
    by_places = im.CPC(torch.nn.Identity(), context, critic, im.InfoNCE(), steps=2)
    by_places.later = by_signals.later
    assert torch.equal(by_signals([signals], ids), by_places([encoder.places(signals)], ids))


@pytest.mark.parametrize("wrong", [{"width": 0}, {"channels": 0}, {"strides": ()}, {"strides": (2, 0)}])
def test_sizes_below_one_are_a_sentence(wrong):
    with pytest.raises(im.UserError, match="whole numbers of at least 1, not"):
        encoders.StridedConv1d(**{"channels": 1} | wrong)
    with pytest.raises(im.UserError, match=r"takes signals \[n, 2, time\], and these are \[3, 1, 50\]"):
        encoders.StridedConv1d(2)(torch.randn(3, 1, 50))


def test_places_of_samples_with_large_ids_are_told_apart():
    encoder, context = encoders.StridedConv1d(2, 6, (4,)), encoders.CausalGRU(6, 7)
    model = im.CPC(encoder, context, im.Bilinear(7, 6), im.InfoNCE(), steps=2)  # 8 places
    signals = torch.randn(6, 2, 32)
    known = model([signals], torch.arange(6))
    for ids in (torch.arange(6) << 60, (1 << 62) + torch.arange(6), -(torch.arange(6) << 61) - 1 + torch.arange(6)):
        assert torch.equal(model([signals], ids), known), ids
