"""One idea carries estimation: its critics are critics, inner products take the engine's fast path, one loop trains,
and checks pull from a lazy record. Contracts over what the package defines, in float64 where scores are compared."""

import ast
import importlib
import inspect
import math
import pkgutil
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import infomax as im
from infomax import estimation
from infomax.critics import Critic, InnerProduct
from infomax.estimation import Budget, Estimator, Fitted, estimate, fitting
from infomax.estimation import pairs as inputs
from infomax.estimation.bases import gains, spatial
from infomax.estimation.bases.base import base_of
from infomax.estimation.bases.discriminant import Classifier
from infomax.estimation.bases.gaussian import GaussianCopula
from infomax.estimation.bases.normal_scores import NormalScores
from infomax.estimation.bases.pair_copula import PairwiseCopula
from infomax.estimation.bases.student import StudentCopula, whitener
from infomax.estimation.critic import FittedCritic, GatedInnerProduct, gated
from infomax.estimation.estimators import generative, residuals
from infomax.estimation.evidence import verdict
from infomax.estimation.evidence.evidence import Evidence, Request
from infomax.estimation.evidence.fold import Fold
from infomax.estimation.result import Check
from infomax.scores.critic_tiles import AnyCritic
from infomax.scores.face import offset_of

PACKAGE = Path(estimation.__file__).parent
MODULES = [
    importlib.import_module(found.name) for found in pkgutil.walk_packages([str(PACKAGE)], "infomax.estimation.")
]


def sides(n: int = 60, d: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, e = torch.randn(2, n, d, generator=generator)
    return x, (x + e) / math.sqrt(2)


# Critics --------------------------------------------------------------------------------------------------------------


def test_whatever_scores_pairs_in_estimation_is_a_critic():
    found = {
        kind for module in MODULES for _, kind in inspect.getmembers(module, inspect.isclass)
        if kind.__module__.startswith("infomax.estimation") and hasattr(kind, "score") and hasattr(kind, "embed")
    }  # fmt: skip
    assert len(found) >= 10
    assert all(issubclass(kind, Critic) for kind in found)


def residual(d: int = 2) -> residuals.Residual:
    columns = residuals.Columns(torch.ones(d)), residuals.Columns(torch.ones(d))
    g, h = (residuals.Stack(1, (d + 1, 8, 4), silent=False).fold(0) for _ in range(2))
    return residuals.Residual(columns, g, h, torch.full((1,), 0.3))


def closed(critic: Any) -> Any:
    critic.open = False
    return critic


def made() -> dict[str, Any]:
    """Critics of sides(), by whether they are inner products: "+" and a name, or "-" and a name."""
    torch.manual_seed(0)
    x, y = sides(400)
    gaussian = GaussianCopula(x, y, x, y)
    labels = torch.nn.functional.one_hot(torch.arange(400) % 2, 2).float()
    density = generative.CLUB(hidden=8)._model(inputs.Pairs(x, y, torch.arange(400)))
    flow = generative.BarberAgakov("MAF", 1, 8)._model(inputs.Pairs(x, y, torch.arange(400)))
    student = StudentCopula(gaussian, whitener(x), whitener(y), 4.0)
    spatially = spatial.SpatialCritic((1, 8, 8), (1, 8, 8))
    nn.init.normal_(spatially.h.last.weight)
    return {
        "+ gaussian": gaussian,
        "+ pairs": PairwiseCopula(gaussian, x, y, x, y),
        "+ residual": residual(),
        "+ spatial": spatially,
        "+ classifier": Classifier(1, labels.mean(0).log(), 0.01, nn.Linear(2, 2)),
        "+ density": density,
        "+ closed density": closed(generative.CLUB(hidden=8)._model(inputs.Pairs(x, y, torch.arange(400)))),
        "+ gaussian and residual": gated(gaussian, residual()),
        "+ closed gate": closed(gated(gaussian, residual())),
        "+ no base": gated(None, im.Separable(2, 2, hidden=8, out=4)),
        "+ nothing": closed(gated(None, im.Separable(2, 2, hidden=8, out=4))),
        "+ a learned offset": gated(gaussian, im.Cosine(0.5, 0.2, learn=True)),
        "- flow": flow,
        "- student": student,
        "- student and residual": gated(student, residual()),
        "- gaussian and network of both": gated(gaussian, im.Concat(2, 2, hidden=8)),
    }


def sides_of(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = sides(12)
    if "spatial" in name:
        return torch.randn(2, 12, 64, generator=torch.Generator().manual_seed(1)).unbind()
    return x, torch.nn.functional.one_hot(torch.arange(12) % 2, 2).float() if "classifier" in name else y


@pytest.mark.parametrize("name", list(made()))
def test_inner_products_say_so_and_take_the_fast_path(name, monkeypatch):
    critic = made()[name].double()
    x, y = (side.double() for side in sides_of(name))
    ex, ey = critic.embed(x, y)
    scores, pairs = critic.score(ex, ey), critic.pair(ex, ey)
    torch.testing.assert_close(scores.diagonal(), pairs, atol=1e-9, rtol=0)
    away = scores.masked_fill(torch.eye(12, dtype=torch.bool), -math.inf)
    calls = []
    slow = AnyCritic.scores
    monkeypatch.setattr(AnyCritic, "scores", lambda *given: calls.append(1) or slow(*given))
    offset = offset_of(critic)
    for tile in ({}, {"rows": 5, "columns": 5}):  # the matrix itself, and tiles
        s = im.Scores(critic, x, y, local=True, **tile)
        torch.testing.assert_close(s.positive, pairs, atol=1e-9, rtol=0)
        torch.testing.assert_close(s.negative.logmeanexp(dim=1), away.logsumexp(1) - math.log(11), atol=1e-9, rtol=0)
    if name.startswith("-"):
        assert offset is None and calls and not isinstance(critic, InnerProduct)
        return
    assert offset is not None and not calls and isinstance(critic, InnerProduct)
    torch.testing.assert_close(ex @ ey.T + offset, scores, atol=1e-9, rtol=0)


def test_a_gated_sum_has_the_gradient_of_its_scores():
    critic = gated(made()["+ gaussian"], im.Cosine(0.5, 0.2, learn=True)).double()
    x, y = (side.double() for side in sides(12))
    found = []
    for value in (im.DV().surrogate(im.Scores(critic, x, y, local=True, rows=5, columns=5)), dense_dv(critic, x, y)):
        critic.zero_grad()
        value.backward()
        found.append([p.grad.clone() for p in critic.parameters()])
    assert len(found[0]) == 2  # temperature and bias
    torch.testing.assert_close(found[0], found[1], atol=1e-9, rtol=0)


def dense_dv(critic, x, y):
    s = critic(x, y)
    away = s.masked_fill(torch.eye(len(s), dtype=torch.bool), -math.inf)
    return s.diagonal().mean() - away.flatten().logsumexp(0) + math.log(len(s) * (len(s) - 1))


@pytest.mark.parametrize(
    "text", [pytest.param("CopulaJS", marks=pytest.mark.slow), "InfoNCE", "BarberAgakov('Gaussian')"]
)
def test_an_estimate_scores_nothing_by_the_slow_path(text, monkeypatch):
    def never(*_: object) -> None:
        raise AssertionError("slow path")

    monkeypatch.setattr(AnyCritic, "scores", never)
    x, y = sides(600, seed=1)
    found = estimate(x.numpy(), y.numpy(), text, budget=Budget(steps=4, every=2, folds=3))
    assert math.isfinite(found.mi)
    if text == "CopulaJS":  # Student's copula is no inner product
        assert {fold["copula"]["kind"] for fold in found.protocol["training"]} == {"GaussianCopula"}
    with pytest.raises(AssertionError, match="slow path"):
        estimate(x.numpy(), y.numpy(), text if text == "InfoNCE" else "JS", "Concat(hidden=4)", budget=Budget(steps=4))


class Outside:
    """A user's critic on no base class, in an estimator of the user's own."""

    def embed(self, x, y):
        return x, y

    def score(self, ex, ey):
        return ex @ ey.T / 2

    def pair(self, ex, ey):
        return (ex * ey).sum(1) / 2

    def __repr__(self) -> str:
        return "Outside()"


class Own(Estimator):
    """A user's estimator."""

    def fit(self, fit, select, critic, budget, seed, device):
        maps = NormalScores(fit.x), NormalScores(fit.y)
        return Fitted(self, Outside(), maps, {})

    def estimate(self, s):
        return s.positive.mean()


def test_an_estimator_with_a_critic_of_its_own_is_read_like_any():
    found = estimate(*(side.numpy() for side in sides(300)), Own())
    assert found.critic == "Outside()"
    assert found.mi > 0.2
    assert isinstance(Fitted(Own(), Outside(), (lambda t: t, lambda t: t), {}).critic, FittedCritic)
    assert not isinstance(gated(None, Outside()), GatedInnerProduct)


# One loop, one rule ---------------------------------------------------------------------------------------------------


def trees() -> list[ast.AST]:
    return [ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))]


def test_one_loop_trains_every_critic():
    made = [
        ast.unparse(node) for tree in trees() for node in ast.walk(tree)
        if isinstance(node, ast.Call) and re.search(r"optim\.|^adamw$", ast.unparse(node.func))
    ]  # fmt: skip
    assert len(made) == 1, made


def test_the_standard_error_of_a_mean_is_spelled_once():
    found = [path.name for path in sorted(PACKAGE.rglob("*.py")) if ".std()) / math.sqrt(len(" in path.read_text()]
    assert found == ["gains.py"]


@pytest.mark.parametrize(
    ("rows", "gain", "loss"),
    [([1.0, 1.2, 0.8], True, False), ([0.1, -0.1, 0.2], False, False), ([-1.0, -1.2, -0.8], False, True)],
)
def test_gains_and_losses_by_one_standard_error(rows, gain, loss):
    each = torch.tensor(rows)
    assert (gains.is_gain(each), not gains.is_no_loss(each)) == (gain, loss)
    assert (gains.is_gain(-each), not gains.is_no_loss(-each)) == (loss, gain)
    nan = torch.tensor([math.nan, 1.0])
    assert not gains.is_gain(nan) and not gains.is_no_loss(nan)


def test_the_jensen_shannon_bound_of_matrices_is_the_objectives():
    s = torch.randn(3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for k, found in enumerate(gains.jensen_shannon(s)):
        assert float(found) == pytest.approx(float(im.JSPlugin().surrogate(im.Scores.from_matrix(s[k]))), abs=1e-12)
    alike = gains.jensen_shannon(s, torch.arange(9).expand(3, 9))
    torch.testing.assert_close(alike, gains.jensen_shannon(s), atol=1e-12, rtol=0)
    ids = torch.arange(9) // 2
    views = gains.jensen_shannon(s[:1], ids[None])
    away = torch.nn.functional.softplus(s[0])[ids[:, None] != ids]
    assert float(views) == pytest.approx(
        float(nn.functional.logsigmoid(s[0].diagonal()).mean() - away.mean()), abs=1e-9
    )


@pytest.mark.parametrize("ids", [None, torch.arange(9).expand(3, 9) // 2])
def test_the_slope_of_the_jensen_shannon_bound_is_autograds(ids):
    s = torch.randn(3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    [wanted] = torch.autograd.grad(gains.jensen_shannon(s, ids).sum(), [s])
    torch.testing.assert_close(gains.jensen_shannon_slope(s.detach().clone(), ids), wanted, atol=1e-15, rtol=0)


def test_each_stacked_critic_keeps_its_own_best():
    """Two numbers climb to 1; the validation criterion of the first peaks at 0.2, that of the second at 1."""
    p = nn.Parameter(torch.zeros(2))
    how = fitting.Ascent(steps=200, batch_size=4, rate=0.02, every=1, patience=50)
    looks = []

    def criterion() -> torch.Tensor:
        looks.append(p.detach().clone())
        return -((p.detach() - torch.tensor([0.2, 1.0])) ** 2)

    start = criterion()
    result = fitting.ascend([p], lambda index: -((p - 1) ** 2), criterion, lambda: [p], 10, how, 0, start)
    assert p.tolist() == pytest.approx([0.2, 1.0], abs=0.02)
    assert 0 < result.best_step[0] < result.best_step[1] <= result.steps
    best = torch.stack([-((look - torch.tensor([0.2, 1.0])) ** 2) for look in looks]).amax(0)
    assert torch.equal(result.best, best)


def test_a_loop_stops_by_patience_at_its_budget_and_at_infinity():
    def ran(bound, criterion, steps=30, patience=2):
        p = nn.Parameter(torch.zeros(()))
        how = fitting.Ascent(steps, 4, 0.1, every=5, patience=patience)
        found = fitting.ascend(
            [p], lambda index: bound(p), lambda: criterion(p), lambda: [p], 9, how, 0, torch.tensor(0.0)
        )
        return found, float(p.detach())

    up = (lambda p: p), (lambda p: p.detach())
    assert ran(*up)[0].stopped == "the budget was used up" and ran(*up)[1] == pytest.approx(3.0, abs=0.01)
    worse, kept = ran(lambda p: p, lambda p: -p.detach())
    assert (worse.steps, int(worse.best_step), kept) == (10, 0, 0.0)
    odd, kept = ran(lambda p: p * math.inf, up[1])
    assert "not finite at step 1" in odd.stopped and kept == 0.0
    assert ran(*up, steps=0)[0].stopped == "there was nothing to train"


# Evidence -------------------------------------------------------------------------------------------------------------


class Counting:
    """A map that counts the rows that it is given."""

    def __init__(self):
        self.rows: list[int] = []

    def __call__(self, t: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(t))
        return t


def a_fold(n: int = 200) -> tuple[Fold, Counting]:
    x, y = sides(2 * n)
    every = inputs.Pairs(x, y, torch.arange(2 * n))
    parts = every.first(n), every[torch.arange(n, n + n // 2)], every[torch.arange(n + n // 2, 2 * n)]
    base = base_of(parts[0], parts[1], 0)
    counting = Counting()
    fitted = Fitted(estimation.CopulaJS(), closed(gated(base.copula, residual())), (counting, lambda t: t), {})
    return Fold(fitted.estimator, fitted, parts, 0, "cpu"), counting


def test_pairs_are_mapped_once_a_fold():
    fold, counting = a_fold()
    assert counting.rows == []  # nothing is worked out that none asks for
    assert math.isfinite(fold.mi)
    assert counting.rows == [100]
    names = ("stderr", "interval", "value_on", "floor", "rival", "partition", "null", "learned")
    assert all(getattr(fold, name) is not None for name in names)
    assert sorted(counting.rows) == [100, 100, 100]  # as many training pairs as test pairs, validation, test
    assert fold.floor < fold.mi < fold.interval[1]


@pytest.mark.parametrize("text", ["CopulaJS", "InfoNCE", "BarberAgakov('Gaussian')", "CLUB", "GCMI"])
def test_values_of_parts_are_those_of_their_pairs(text):
    """What the jackknife reads, at once where a value is a mean."""
    pairs = inputs.Pairs(*sides(120), torch.arange(120))
    fitted = estimation.row(text).fit(pairs, pairs, None, Budget(steps=3, every=1), 0, "cpu")
    mapped, parts = fitted.mapped(pairs), inputs.without_a_group(pairs, 5, 0)
    known = [fitted.value(mapped[index]) for index in parts]
    assert fitted.values(mapped, parts) == pytest.approx(known, abs=1e-6)
    assert len(set(known)) == 5


def a_request(**changes: Any) -> Request:
    x, y = sides(300)
    parts = inputs.folds(inputs.Pairs(x, y, torch.arange(300)), 3, 0)
    budget = Budget(steps=2, every=1, folds=3)
    return replace(Request(parts, 300, (), None, estimation.CopulaJS(), None, 0, budget, "cpu"), **changes)


def test_an_estimate_does_not_know_its_checks(monkeypatch):
    def many(e: Evidence) -> Check:
        return Check("folds at all", float(len(e.folds)), 0.0, "fail", f"there are {len(e.folds)} folds.")

    monkeypatch.setattr(verdict, "CHECKS", [*verdict.CHECKS, many, lambda e: None])
    found = estimate(*(side.numpy() for side in sides(300, 3)), budget=Budget(steps=2, every=1, folds=3))
    assert found.checks[-1] == Check("folds at all", 3.0, 0.0, "fail", "there are 3 folds.")
    assert not found.trusted


def test_a_check_works_out_no_more_than_it_pulls():
    request = a_request()
    evidence = Evidence(request, request.fitted())
    assert verdict.columns(evidence).name == "columns" and verdict.components(evidence) is None
    assert "folds" not in vars(evidence)
    names = [found.name for check in verdict.CHECKS if (found := check(evidence)) is not None]
    assert len(names) == len(set(names)) >= 12
    # What holds for one split, and for what trains nothing, is said by fewer.
    one = a_request(parts=[request.parts[0]], estimator=estimation.row("KSG"))
    fewer = {found.name for found in verdict.verdict(Evidence(one, one.fitted()))}
    assert {"folds", "learning curve", "drawn pairs", "permutation", "splits", "columns"}.isdisjoint(fewer)


def test_no_method_of_the_record_is_long():
    for path in (PACKAGE / "evidence" / "evidence.py", PACKAGE / "evidence" / "fold.py"):
        for kind in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)):
            for method in (node for node in kind.body if isinstance(node, ast.FunctionDef)):
                first = method.body[1 if ast.get_docstring(method) and len(method.body) > 1 else 0]
                assert (method.end_lineno or 0) - first.lineno < 15, (path.name, method.name)


# Names ----------------------------------------------------------------------------------------------------------------


class Earlier(im.NWJ):
    leans_on = "rows"
    fixes_constant = False
    ranked_by_surrogate = True


class Later(im.NWJ):
    value_from = "rows"
    normalised = False
    select_by_surrogate = True


@pytest.mark.parametrize("kind", [Earlier, Later])
def test_earlier_names_of_attributes_work_in_subclasses(kind):
    for of in (kind, kind()):
        assert (of.value_from, of.normalised, of.select_by_surrogate) == ("rows", False, True)
        assert (of.leans_on, of.fixes_constant, of.ranked_by_surrogate) == ("rows", False, True)
    row = estimation.row(kind())
    assert (row.value_from, row.normalised) == (row.leans_on, row.fixes_constant) == ("rows", False)
    objective = im.NWJ()
    objective.leans_on = "plug-in"
    assert (objective.value_from, im.NWJ().value_from, im.NWJ.leans_on) == ("plug-in", "partition", "partition")


def test_an_estimator_s_earlier_names_work_too():
    class Mine(Own):
        reads_all = True

        @property
        def leans_on(self):
            return "neighbours"

    assert (Mine.training_free, Mine().reads_all, Mine().value_from) == (True, True, "neighbours")
    assert not Own.training_free


X, Y = (side.numpy().astype(np.float64) for side in sides(200))


def test_the_estimator_has_two_names_in_python():
    by = [estimate(X, Y, "GCMI"), estimate(X, Y, objective="GCMI"), estimate(X, Y, estimator="GCMI")]
    assert by[0] == by[1] == by[2]
    parts = [(X[i : i + 60], Y[i : i + 60]) for i in (0, 60, 120)]
    assert estimation.estimate_splits(*parts, estimator="GCMI") == estimation.estimate_splits(*parts, "GCMI")
    for how, given in ((estimate, (X, Y)), (estimation.estimate_splits, parts), (estimation.audit, (X, Y)),
                       (estimation.audit_splits, parts)):  # fmt: skip
        with pytest.raises(im.UserError, match="one argument by two names"):
            how(*given, objective="KSG", estimator="GCMI")
    with pytest.raises(im.UserError, match="Unknown estimator 'GCMO'"):
        estimate(X, Y, estimator="GCMO")


@pytest.mark.slow
def test_an_audit_takes_an_estimator():
    assert estimation.audit(X, Y, estimator="GCMI").method == "GCMI(shrinkage=None)"
