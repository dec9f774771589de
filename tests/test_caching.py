"""Gradient caching: the gradient of the whole batch, in the memory of a micro-batch."""

import copy

import pytest
import torch
from torch import nn

from infomax import InfoMax, Model, TwoTower, UserError, critics, objectives
from infomax.scores import Sides


def model(dropout=0.0, norm=False, microbatch=None, ntxent=False):
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4) if norm else nn.GroupNorm(2, 4), nn.ReLU(), nn.Dropout(dropout),
        nn.Flatten(), nn.Linear(4 * 36, 8),
    )  # fmt: skip
    return InfoMax(encoder, nn.Linear(8, 6), critics.Cosine(0.5, learn=True), objectives.SMILE(), ntxent, microbatch)


def views(n=24):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, 1, 8, 8, generator=generator)


def step(module, batch, autocast=False):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = module(batch[0], batch[1])
    value.backward()
    return value.detach(), torch.cat([p.grad.flatten() for p in module.parameters()])


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("ntxent", [False, True])
@pytest.mark.parametrize("microbatch", [8, 7, 1])
def test_the_gradient_is_the_whole_batchs(microbatch, ntxent):
    batch = views()
    whole, cached = step(model(ntxent=ntxent), batch), step(model(microbatch=microbatch, ntxent=ntxent), batch)
    assert cached[0].item() == pytest.approx(whole[0].item(), rel=1e-6)
    assert relative(cached[1], whole[1]) < 1e-6


def test_dropout_draws_the_same_numbers_in_both_passes():
    """Against an encoder that is run once, chunk by chunk, from the same state of the generator, with autograd."""
    batch = views()
    cached, plain = model(dropout=0.4, microbatch=8), model(dropout=0.4)
    torch.manual_seed(5)
    value, gradient = step(cached, batch)
    after = torch.rand(1)
    torch.manual_seed(5)
    pieces = [plain._encode(a, b) for a, b in zip(batch[0].split(8), batch[1].split(8), strict=True)]
    assert torch.equal(torch.rand(1), after), "the second pass leaves the generator where the first left it"
    from infomax.scores import Scores

    z1, z2 = (torch.cat(z) for z in zip(*pieces, strict=True))
    expected = plain.objective(Scores(plain.critic, z1, z2))
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert relative(gradient, torch.cat([p.grad.flatten() for p in plain.parameters()])) < 1e-6


def test_under_autocast_both_passes_are_cast_alike():
    batch = views()
    whole, cached = step(model(), batch, autocast=True), step(model(microbatch=8), batch, autocast=True)
    assert relative(cached[1], whole[1]) < 1e-2  # sums of bfloat16 products in another order
    assert cached[1].abs().max() > 0


def test_batch_norm_is_the_micro_batchs_and_its_averages_move_once():
    batch = views()
    cached, plain = model(norm=True, microbatch=8), model(norm=True)
    step(cached, batch)
    for a, b in zip(batch[0].split(8), batch[1].split(8), strict=True):
        plain._encode(a, b)
    for ours, theirs in zip(cached.encoder[1].buffers(), plain.encoder[1].buffers(), strict=True):
        assert torch.allclose(ours, theirs)
    assert cached.encoder[1].num_batches_tracked == 3


def test_without_gradient_it_only_encodes_in_parts():
    batch, cached = views(), model(microbatch=5).eval()
    with torch.no_grad():
        value = cached(batch[0], batch[1])
    whole = copy.deepcopy(cached)
    whole.microbatch = None
    assert value.item() == pytest.approx(whole(batch[0], batch[1]).item(), rel=1e-5)


def test_images_may_want_a_gradient():
    batch = views()
    found = []
    for microbatch in (None, 7):
        images = batch.clone().requires_grad_()
        model(microbatch=microbatch)(images[0], images[1]).backward()
        found.append(images.grad)
    assert relative(found[1], found[0]) < 1e-5


def test_a_parameter_that_two_parts_share_is_counted_once():
    torch.manual_seed(0)
    shared = nn.Linear(6, 5).double()

    def tower():
        return nn.Sequential(shared, nn.Tanh(), nn.Linear(5, 4)).double()

    x, y = torch.randn(2, 10, 6, dtype=torch.float64)
    towers = TwoTower(tower(), tower(), nn.Identity(), nn.Identity(), critics.Cosine(0.5), objectives.InfoNCE())
    found = []
    for microbatch in (None, 4):
        towers.microbatch = microbatch
        towers.zero_grad()
        towers([x, y]).backward()
        found.append(torch.cat([p.grad.flatten() for p in towers.parameters()]))
    assert relative(found[1], found[0]) < 1e-12


class Marked(Model):
    """Samples and a parameter and a running mean of the model's own, which encode reads and moves."""

    def __init__(self, encoder, critic, objective, microbatch=None):
        super().__init__(critic, objective, microbatch, encoder=encoder)
        self.token = nn.Parameter(torch.ones(6))
        self.register_buffer("calls", torch.zeros(()))

    def _encode(self, x, y):
        self.calls += 1
        return self.encoder(x + self.token), self.encoder(y * self.token)

    def sides(self, inputs, ids):
        return Sides(*self.encode(self._encode, *inputs), ids)


def test_the_models_own_parameters_get_their_gradient_and_its_buffers_move_once():
    x, y = torch.randn(2, 10, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found, calls = [], []
    for microbatch in (None, 4):
        torch.manual_seed(0)
        marked = Marked(nn.Linear(6, 4), critics.Cosine(0.5), objectives.NWJ(), microbatch).double()
        marked([x, y]).backward()
        found.append(torch.cat([p.grad.flatten() for p in (marked.token, *marked.encoder.parameters())]))
        calls.append(int(marked.calls))
    assert relative(found[1], found[0]) < 1e-12 and float(found[0][:6].norm()) > 0
    assert calls == [1, 3]  # one a micro-batch: the second pass puts them back


def test_parameters_that_share_a_gradient_keep_their_own():
    class Reparametrised(nn.Module):
        def __init__(self):
            super().__init__()
            self.base, self.delta = (
                nn.Parameter(t) for t in torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(2))
            )
            self.shift = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return torch.tanh(x @ (self.base + self.delta)) + self.shift.sum()

    batch = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(3))
    found = []
    for microbatch in (None, 3):
        module = InfoMax(
            Reparametrised(), nn.Identity(), critics.Cosine(0.5), objectives.InfoNCE(), microbatch=microbatch
        )
        found.append(step(module, batch)[1])
    assert relative(found[1], found[0]) < 1e-6


def test_a_micro_batch_has_a_size():
    with pytest.raises(UserError, match="microbatch is a number of pairs"):
        model(microbatch=0)
