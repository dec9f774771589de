"""Workers of one thread each walk the tiles: the same bits by any number, and what goes wrong in one is told."""

import copy
import os
import subprocess
import sys
import threading

import pytest
import torch

import infomax as im
from infomax import critics, objectives
from infomax.estimation import Budget
from infomax.scores import Scores, dense, workers


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def by_tiles(monkeypatch):
    monkeypatch.setattr(dense, "KEPT", 0)


def gradients(objective, critic, n=70, views=False, dtype=torch.float32, **cut):
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(2, n, 8, generator=generator).to(dtype)
    leaves = [x.requires_grad_(), y.requires_grad_(), *critic.to(dtype).parameters()]
    make = Scores.of_views if views else Scores
    value = objective(make(critic, *leaves[:2], **cut))
    return [value.detach(), *torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)]


def cases():
    for text in objectives.registry:
        yield pytest.param(text, 0.1, False, id=text)
        yield pytest.param(text, 0.0125, False, id=f"{text} at scores up to 80")
        yield pytest.param(text, 0.1, True, id=f"{text} of all views")


@pytest.mark.parametrize(("text", "temperature", "views"), list(cases()))
def test_any_number_of_threads_gives_the_same_bits(text, temperature, views, threads):
    """Tiles of 16 x 20, so that blocks have several and the last of them are ragged; a learnt offset takes part."""
    critic, found = critics.Cosine(temperature, bias=0.1, learn="bias"), []
    for count in (1, 2, 3, 5):
        threads(count)
        found.append(gradients(objectives.objective(text), critic, views=views, rows=16, columns=20))
        assert torch.get_num_threads() == count
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.equal(a, b)
    exact = gradients(objectives.objective(text), copy.deepcopy(critic), views=views, dtype=torch.float64)
    for a, b in zip(found[-1], exact, strict=True):
        assert torch.allclose(a.double(), b, rtol=1e-3, atol=1e-5)


def test_the_cut_that_is_chosen_does_not_depend_on_threads(threads):
    critic, found = critics.Cosine(0.1), []
    for count in (1, 3):
        threads(count)
        found.append(gradients(objectives.InfoNCE(), critic, n=700))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_every_worker_takes_part_and_has_one_thread(threads):
    threads(3)
    meeting, seen, started = threading.Barrier(3, timeout=300), {}, []

    def work(item, worker):
        meeting.wait()  # none of the three is at work alone
        seen[worker] = torch.get_num_threads()
        if worker == 0:
            other = threading.Thread(target=lambda: started.append(torch.get_num_threads()))
            other.start()
            other.join()
        return item * 2

    with workers.at_work(divided=True) as crew:
        assert crew.in_turn(work, [5, 6, 7]) == [10, 12, 14]
    assert seen == {0: 1, 1: 1, 2: 1} and torch.get_num_threads() == 3
    assert started == [3], "a thread that starts meanwhile has torch's threads, not a worker's one"


def test_a_small_estimate_has_one_value_on_any_number_of_threads(threads, monkeypatch):
    asked, backward = [], torch.Tensor.backward

    def spied(loss):
        asked.append(torch.get_num_threads())
        return backward(loss)

    monkeypatch.setattr(torch.Tensor, "backward", spied)
    x, noise = torch.randn(2, 300, 2, generator=torch.Generator().manual_seed(0))
    found = []
    for count in (1, 3):
        threads(count)
        found.append(
            [im.estimate(x, x.abs() + noise, of, budget=Budget(steps=30)).to_dict() for of in ("CopulaJS", "NWJ")]
        )
        assert torch.get_num_threads() == count
    assert found[0] == found[1]
    assert set(asked) == {1}
    listed = im.estimate(x.tolist(), (x.abs() + noise).tolist(), "NWJ", budget=Budget(steps=30))
    assert listed.mi == found[1][1]["mi"], "lists are counted as arrays are"
    x, noise = torch.randn(2, 12_000, 2, generator=torch.Generator().manual_seed(0))
    im.estimate(x, x.abs() + noise, "NWJ", budget=Budget(steps=2))
    assert asked[-1] == 3, "where there is more to compute, all of them take part"


def test_threads_may_change_between_forward_and_backward(threads):
    x, y = torch.randn(2, 70, 8).requires_grad_().unbind()
    threads(3)
    value = objectives.DV()(Scores(critics.Cosine(), x, y))
    threads(2)
    value.backward()
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("who", [0, 2, 5])
def test_what_goes_wrong_in_a_worker_is_told_when_all_have_stopped(who, threads):
    threads(3)
    busy = set()

    def work(item, worker):
        busy.add(item)
        if item == who:
            raise ArithmeticError(f"item {item}")
        torch.randn(64, 64).exp_()
        busy.remove(item)

    with pytest.raises(ArithmeticError, match=f"item {who}"), workers.at_work(divided=True) as crew:
        crew.in_turn(work, list(range(8)))
    assert busy == {who} and torch.get_num_threads() == 3
    with workers.at_work(divided=True) as crew:
        assert crew.in_turn(lambda item, worker: item, list(range(8))) == list(range(8)), "the same workers go on"


INTERRUPTED = """
import signal, torch
import infomax as im
torch.set_num_threads(3)
x, y = (torch.randn(3000, 32, requires_grad=True) for _ in range(2))
threading = __import__("threading")
threading.Timer(1.0, lambda: signal.raise_signal(signal.SIGINT)).start()
try:
    while True:
        im.InfoNCE()(im.Scores(im.Cosine(), x, y)).backward()
except KeyboardInterrupt:
    im.InfoNCE()(im.Scores(im.Cosine(), x, y)).backward()
    print("went on with", torch.get_num_threads())
"""


@pytest.mark.slow
def test_ctrl_c_ends_a_walk_whose_workers_have_stopped():
    for _ in range(3):
        run = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
        assert (run.returncode, run.stdout) == (0, "went on with 3\n"), run.stderr


def test_a_forked_child_has_workers_of_its_own(threads):
    threads(2)
    critic = critics.Cosine(0.1)
    expected = gradients(objectives.DV(), critic, rows=16, columns=20)
    child = os.fork()
    if child == 0:
        found = gradients(objectives.DV(), critic, rows=16, columns=20)
        os._exit(0 if all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
