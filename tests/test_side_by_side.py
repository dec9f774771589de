"""Runs side by side: differences that are paired where they can be, intervals that cover, and the page of it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from test_audit import at
from test_report import Reader, flat

import infomax as im
from infomax.estimation.result import Check
from infomax.evaluation import Evaluation, Identity, Probes, Terms, compare
from infomax.evaluation.compare import Difference, Number, Seen, apart, paired_accuracy
from infomax.evaluation.probing import Probe
from infomax.evaluation.result import Chain
from infomax.evaluation.targets import TargetProbe, TargetProbes
from infomax.ui import side_by_side
from infomax.ui.pictures import compared_curves


def probed(right, draws=(0.7, 0.8, 0.75)):
    accuracy = float(np.mean(right))
    interval = (accuracy - 0.02, accuracy + 0.02)
    shots = float(np.mean(draws))
    protocol = {"test_images": len(right), "shots_10": {"accuracies": list(draws)}}
    return Probe(
        accuracy, interval, shots, (shots - 0.1, shots + 0.1), accuracy, interval, protocol,
        right={"accuracy": tuple(right), "knn": tuple(right)},
    )  # fmt: skip


def evaluated(right, draws=(0.7, 0.8, 0.75), mi=3.0, each=()):
    who = Identity(mi, mi - 0.2, (mi - 0.3, mi + 0.3), math.log(64), 64, 256, 64, ((2, 0.6),), (), each)
    row = probed(right, draws)
    return Evaluation(Probes(row, row, None), Terms(replace(at(2.0), floor=1.5), identity=who))


def test_an_evaluation_is_printed_as_what_there_is_to_believe():
    found = evaluated([True] * 9 + [False])
    target = TargetProbe("age", "R2", 0.5, None, 0.0, {})
    unknown = TargetProbe("size", "R2", None, None, 0.0, {"reason": "it is constant"})
    both = TargetProbes((target, unknown), (replace(target, score=0.2, interval=(0.1, 0.3)), unknown), None)
    shown = str(replace(found, targets=both)).splitlines()
    row = "linear 0.900 [0.880, 0.920], 10 images a class 0.750 [0.650, 0.850], kNN 0.900 [0.880, 0.920]"
    assert shown == [
        f"trained encoder: {row}", f"raw pixels: {row}",
        "age, R2: trained encoder 0.500 [no interval], raw pixels 0.200 [0.100, 0.300], chance 0.000",
        "size: not measured: it is constant",
        f"I(Z1; Z2): {found.mi.statement}", f"I(J; Z): {found.identity.statement}",
    ]  # fmt: skip
    bare = replace(found, probes="there are no labels.", terms=replace(found.terms, chain="too few images."))
    assert str(bare).startswith("not probed: there are no labels.\nI(Z1; Z2)")
    assert str(bare).endswith("chain of layers: too few images.")
    chained = replace(found.terms, chain=Chain((("features", at(2.0)),), Check("data processing", 0, 0, "pass", "")))
    assert f"I(features of view 1; Z of view 2): {at(2.0).statement}" in str(chained)


ANSWERS = [i % 10 != 0 for i in range(200)]  # 90 % right
BETTER = [i % 20 != 0 for i in range(200)]  # 95 %: right wherever the other is
IMAGES = Seen("digits", "train", "sum", "crops")


def test_differences_are_paired_where_both_answered_the_same_images():
    first, other = evaluated(ANSWERS), evaluated(BETTER, (0.72, 0.83, 0.77), 3.5)
    health = [{"health/rankme": 40.0}, {"health/rankme": 50.0}]
    a, b = compare([first, other], ["a", "b"], [IMAGES, IMAGES], health)
    assert all(number.difference is None for number in a.numbers)
    of = {number.name: number for number in b.numbers}
    linear = of["linear probe"].difference
    assert linear.value == pytest.approx(0.05) and linear.how == "paired over test images"
    assert 0 < linear.interval[0] < 0.05 < linear.interval[1] < 0.1
    shots = of["10 images a class"].difference
    assert shots.how == "paired over draws" and shots.interval[0] > 0, "each draw gained"
    assert of["I(J; Z)"].difference.how == "from the two intervals"
    assert of["I(J; Z)"].difference.interval == pytest.approx((0.5 - 0.3 * 2**0.5, 0.5 + 0.3 * 2**0.5))
    shares = [(2.5, 3.0, 3.5, 3.0), (3.1, 3.4, 4.0, 3.5)]
    both = [evaluated(ANSWERS, each=shares[0]), evaluated(BETTER, mi=3.5, each=shares[1])]
    _, c = compare(both, ["a", "c"], [IMAGES] * 2, health)
    paired = next(number.difference for number in c.numbers if number.name == "I(J; Z)")
    assert paired.how == "paired over held-out images" and 0.3 < paired.interval[0] < 0.5 < paired.interval[1] < 0.7
    assert of["I(Z1; Z2), at least"].difference.interval is None
    assert of["RankMe"].difference.value == 10.0 and of["alignment"].value is None
    with pytest.raises(im.UserError, match="name two or more"):
        compare([first], ["a"], [IMAGES], health[:1])


def test_other_training_images_and_other_views_are_said():
    found, data = [evaluated(ANSWERS), evaluated(BETTER)], [IMAGES, replace(IMAGES, train="a half")]
    _, b = compare(found, ["a", "b"], data, [{}] * 2)
    assert "other training images of digits" in b.why_apart and all(number.difference is None for number in b.numbers)
    _, b = compare(found, ["a", "b"], [IMAGES, replace(IMAGES, views="turns")], [{}] * 2)
    of = {number.name: number.difference for number in b.numbers}
    assert "b has other views than a" in b.why_apart and of["linear probe"].how == "paired over test images"
    assert of["I(J; Z)"] is None and of["I(Z1; Z2), at least"] is None


def test_runs_of_other_images_are_said_and_not_subtracted():
    found = [evaluated(ANSWERS), evaluated(BETTER), evaluated(BETTER)]
    data = [IMAGES, Seen("cifar10", "train", "other"), replace(IMAGES, test="fewer")]
    _, b, c = compare(found, ["a", "b", "c"], data, [{}] * 3)
    assert b.why_apart == "b was evaluated on cifar10, and a on digits: no difference is taken."
    assert c.why_apart == "c was evaluated on other test images of digits, and a on digits: no difference is taken."
    assert all(number.difference is None for one in (b, c) for number in one.numbers)


def test_what_was_not_measured_has_no_difference():
    bare = Evaluation("There are no labels.", Terms(at(2.0), identity="too few images."))
    _, b = compare([evaluated(ANSWERS), bare], ["a", "b"], [IMAGES, IMAGES], [{}, {}])
    assert all(number.difference is None for number in b.numbers if number.name != "I(Z1; Z2), at least")
    none = replace(bare, terms=replace(bare.terms, mi="too few images."))
    _, b = compare([evaluated(ANSWERS), none], ["a", "b"], [IMAGES, IMAGES], [{}, {}])
    assert all(number.value is None for number in b.numbers)
    assert "I(Z1; Z2): not measured: too few images." in side_by_side._unmeasured(none)


def test_paired_intervals_cover_and_are_narrower():
    """Of two encoders that err together, 95 % of intervals hold the difference; 4,000 draws, error .35 %."""
    rng = np.random.default_rng(0)
    held, widths = 0, []
    for _ in range(4000):
        u = rng.random(500)
        first, other = u > 0.06, (u > 0.04) ^ (rng.random(500) < 0.01)
        truth = (0.96 * 0.99 + 0.04 * 0.01) - 0.94
        low, high = paired_accuracy(first, other)
        held += low <= truth <= high
        widths.append(high - low)
    assert 0.935 < held / 4000 < 0.975
    low, high = apart(0.94, (0.92, 0.96), 0.95, (0.93, 0.97))
    assert np.mean(widths) < high - low
    assert paired_accuracy([True] * 9, [True] * 9)[0] < 0 < paired_accuracy([True] * 9, [True] * 9)[1]
    with pytest.raises(im.UserError, match="9 and 8 answers"):
        paired_accuracy([True] * 9, [True] * 8)


def test_the_page_is_whole_and_says_it(tmp_path):
    runs = [tmp_path / name / "run" for name in ("one", "two")] + [tmp_path / "<three>"]
    for i, run in enumerate(runs):
        run.mkdir(parents=True)
        lines = [{"number": n, "mi": n / 50 + i, "ceiling": 5.5} for n in range(1, 101)]
        lines[49] |= {"health/rankme": 20.0 + i, "probe/knn": 0.9, "health/mi": None}
        (run / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"number": 101, "mi": ')
    names = side_by_side.labels(runs, [7, 9, 9])
    assert names == ["run, step 7", "run, step 9", "<three>"]
    assert side_by_side.labels(runs[:2], [7, 7]) == ["run, step 7 (1)", "run, step 7 (2)"]
    found = [evaluated(ANSWERS), evaluated(BETTER), replace(evaluated(BETTER), probes="There is one class.")]
    compared = compare(found, names, [IMAGES, IMAGES, Seen("other", "x", "x")], [{"health/rankme": 20.0}] * 3)
    page = side_by_side.page(compared, found, runs)
    text, read = flat(page), Reader(page)
    for told in (
        "run, step 7 beside run, step 9 and <three>", "linear probe, %", "90.0 [88.0, 92.0]", "+5.0 [+1.",
        "<three> was evaluated on other, and run, step 7 on digits: no difference is taken.", "kNN accuracy, %",
        "Probes: not measured: There is one class.", "paired over the same draws", "effective rank (RankMe)",
    ):  # fmt: skip
        assert told in text, told
    assert "alignment" not in text, "no run measured it"
    assert page.count("<svg") == 1 and read.fetched == [] and len(read.ids) == len(set(read.ids))
    assert compared_curves({"none": tmp_path / "no.jsonl"}) == ""
    assert json.loads(json.dumps([one.to_dict() for one in compared]))[1]["numbers"][0]["difference"]["how"]


@pytest.mark.parametrize("name", ["_hidden", "\u65e5\u672c", "\u0928\u092e", "\U0001f600", "$5_$10"])
def test_a_run_has_its_name_in_the_legend(tmp_path, name):
    (tmp_path / "log.jsonl").write_text('{"number": 1, "mi": 1.0, "ceiling": 5.5}')
    picture = compared_curves({name: tmp_path / "log.jsonl", "other": tmp_path / "log.jsonl"})
    assert f">{name}</text>" in picture and ">other</text>" in picture


def test_a_cell_has_no_negative_zero_and_draws_alone_make_no_difference_sure():
    def cell(unit, value, low, high, how="paired over test images"):
        return side_by_side._cell(Number("a", value, (low, high), unit, Difference(value, (low, high), how)))

    assert cell("%", -0.0003, -0.0004, -0.0001) == side_by_side.Cell("0.0 [0.0, 0.0]", "+0.0 [+0.0, +0.0]", True)
    assert cell("nats", -0.003, -0.3, 0.001).difference == "+0.00 [-0.30, +0.00]"
    assert cell("%", -0.098, -0.103, -0.092).sure and not cell("%", -0.098, -0.103, -0.092, "paired over draws").sure


def test_a_value_that_is_not_trusted_is_marked_and_its_difference_never_bold(tmp_path):
    def of_check(mi, verdict, each):
        of = evaluated(ANSWERS, mi=mi, each=each)
        check = Check("views", 1.0, 0.5, verdict, f"The {verdict} has a reason.")
        return replace(of, terms=replace(of.terms, identity=replace(of.identity, checks=(check,))))

    rows = ((2.5, 3.0, 3.5, 3.0), (3.5, 4.0, 4.5, 4.01))
    runs = [tmp_path / name for name in ("a", "b")]
    for first, other in (("pass", "fail"), ("fail", "pass"), ("warn", "pass")):
        found = [of_check(3.0, first, rows[0]), of_check(4.0, other, rows[1])]
        compared = compare(found, ["a", "b"], [IMAGES] * 2, [{}] * 2)
        text, whole = flat(page := side_by_side.page(compared, found, runs)), "4.00 [3.70, 4.30]"
        untrusted = "fail" in (first, other)
        assert ("NOT TRUSTED" in page) == untrusted == ("I(J; Z) is not trusted: The fail has a reason." in text)
        assert (f"{whole}, NOT TRUSTED" in text) == (other == "fail")
        assert ("<strong>+1.0" in page) != untrusted, "a difference of an untrusted value is not bold"


def test_health_is_of_the_step_that_is_compared_and_of_its_data_set(tmp_path):
    run = tmp_path / "run"
    step = run / "step-60"
    step.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"configuration": {"dataset": "digits"}}))
    (step / "MANIFEST.json").write_text("{}")
    (step / "state.json").write_text(json.dumps({"configuration": {"dataset": "digits"}}))
    ranks = {20: 5.0, 40: 6.0, 60: 7.0, 80: 8.0}
    lines = [{"number": n, "mi": 1.0, "ceiling": 5.5, "health/rankme": rank} for n, rank in ranks.items()]
    (run / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert side_by_side._health(step, 60, None) == ({"health/rankme": 7.0}, "")
    assert side_by_side._health(step, 60, "digits") == ({"health/rankme": 7.0}, "")
    numbers, note = side_by_side._health(run, 50, None)
    assert numbers == {"health/rankme": 6.0} and note == "Health is of step 40, the last measured up to step 50."
    assert side_by_side._health(run, 10, None) == ({}, "")
    for place in (run, step):
        numbers, note = side_by_side._health(place, 60, "mnist")
        assert numbers == {} and note == "Health is left out: the log has it of digits, not of mnist."
    found = [evaluated(ANSWERS), evaluated(BETTER)]
    compared = compare(found, ["a", "b"], [IMAGES] * 2, [{}] * 2)
    assert note in flat(side_by_side.page(compared, found, [run, run], ["", note]))


def test_which_images_were_right_is_kept_and_not_written():
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    found = im.evaluation.probing.probe_features(x[:40], y[:40], x[40:], y[40:])
    assert np.mean(found.right["accuracy"]) == found.accuracy and np.mean(found.right["knn"]) == found.knn
    assert "right" not in found.to_dict() and "accuracy" in found.to_dict()
    assert "right" not in repr(found)
