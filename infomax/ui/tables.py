"""Tables of results on standard output: accuracies and nats."""

import math
import sys
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infomax.estimation import Estimate
    from infomax.evaluation import Evaluation, Identity, Probes, Terms, Towers
    from infomax.evaluation.balance import Balance
    from infomax.evaluation.probing import Probe
    from infomax.evaluation.targets import TargetProbes

Rows = list[tuple[str, list[str]]]  # of a table: the name and the cells of each


def print_evaluation(
    probes: "Probes | str | None", mi: "Estimate | str | None", saved: Any = None, health: str | None = None,
    identity: "Identity | str | None" = None, targets: "TargetProbes | None" = None,
) -> None:  # fmt: skip
    """The table at the end of a run and of `infomax probe`, on standard output, in at most 80 columns.

    probes, mi, identity: a text says why there are none. saved: the folder, named in a line. health: of held-out
    features, a line. targets: a table of their own.
    """
    from rich.console import Console

    from infomax.evaluation.common import left_out

    console = Console(width=None if sys.stdout.isatty() else 80, highlight=False, markup=False)
    if isinstance(probes, str):
        console.print(f"Probes: not measured: {probes}")
    elif probes is not None:
        images = probes.trained.protocol["test_images"]
        console.print(f"Probes on frozen features: % right of {images} test images, with 95 % intervals")
        _print_rows(console, probe_rows(probes), heads())
        if said := left_out(probes.trained.protocol):
            console.print(said)
        balance = probes.trained.balance
        if balance is not None and balance.unbalanced:
            console.print(
                f"Classes are unbalanced: always answering {balance.majority} is right {_percent(balance.share)} % of"
                " the time. Balanced accuracy, the mean of the classes' recalls, in %:"
            )
            _print_rows(console, probe_rows(probes, balanced=True), heads())
        if (retrieval := probes.trained.retrieval) is not None:
            console.print(
                f"Retrieval by label: {retrieval.queries} test images find those of their label among the"
                f" {retrieval.gallery} others, in %, with 95 % intervals"
            )
            _print_table(console, retrieval_rows(probes))
            if retrieval.said:
                console.print(retrieval.said)
    if not isinstance(probes, str) and probes is not None and probes.trained.finetuned is not None:
        console.print("Fine-tuned, all weights trained with labels: % right of the same images")
        _print_rows(console, finetune_rows(probes), ("", "all labels", "10 images a class"))
    if targets is not None:
        console.print("Targets from frozen features: R2 of numbers, mAP of words, with 95 % intervals")
        _print_table(console, target_rows(targets))
        for line in without_interval(targets.to_dict()):
            console.print(line)
        for probe in targets.trained:
            if probe.score is None:
                console.print(f"{probe.name}: not measured: {probe.protocol['reason']}")
    if isinstance(mi, str):
        console.print(f"I(Z1; Z2) of two views: not measured: {mi}")
    elif mi is not None:
        low, high = mi.interval
        console.print(
            f"I(Z1; Z2) of two views: {mi.mi:.2f} nats, 95 % interval [{low:.2f}, {high:.2f}], "
            f"{'trusted' if mi.trusted else 'NOT trusted'};\n"
            f"ceiling {mi.ceiling:.2f} nats, log of {mi.splits[2]} held-out pairs"
        )
        for reason in mi.reasons:
            console.print(f"  {reason}")
    if isinstance(identity, str):
        console.print(f"I(J; Z), which image a view shows: not measured: {identity}")
    if health is not None:
        console.print(health)
    if saved is not None:
        console.print(f"Saved in {saved}", soft_wrap=True)
    if mi is not None and not isinstance(mi, str):
        print(last_line(mi, "I(Z1; Z2) of two views"))
    if identity is not None and not isinstance(identity, str):
        print(identity_line(identity))


def identity_line(found: "Identity", unit: "Literal['nats', 'bits']" = "nats") -> str:
    """I(J; Z) in a line, with what it means."""
    return f"I(J; Z), which of {found.among} images a view shows: {found.said(unit)}"


def heads() -> tuple[str, ...]:
    """Of a table of probes: of its rows' names, and of their accuracies()."""
    from infomax.evaluation.probing import COLUMNS

    return "", *COLUMNS.values()


def _print_rows(console: Any, rows: Rows, columns: tuple[str, ...]) -> None:
    _print_table(console, [[*columns], *([name, *cells] for name, cells in rows)])


def _print_table(console: Any, rows: list[list[str]]) -> None:
    """rows: the header, then the others; cells to the right, but for the names."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False)
    header, *others = rows
    for column, name in enumerate(header):
        table.add_column(name, justify="right" if column else "left")
    for row in others:
        table.add_row(*row)
    console.print(table)


def probe_rows(probes: "Probes", balanced: bool = False) -> Rows:
    """The accuracies of the trained encoder and its baselines: names, and cells as `accuracies` gives them.

    balanced: balanced accuracies.
    """
    rows: Rows = []
    for name, row in (
        ("trained encoder", probes.trained), ("untrained encoder", probes.untrained), ("raw pixels", probes.pixels)
    ):  # fmt: skip
        shown = row.balance if balanced and row is not None else row
        if shown is not None:
            rows.append((name, accuracies(shown)))
    return rows


def retrieval_rows(probes: "Probes") -> list[list[str]]:
    """A table's header and its rows: recall@1, 5, 10 and mAP by each encoder, and at random, in %."""
    from infomax.evaluation.by_label import SHOWN

    sides = {"trained": probes.trained, "untrained": probes.untrained, "raw pixels": probes.pixels}
    found = {
        name: probe.retrieval for name, probe in sides.items() if probe is not None and probe.retrieval is not None
    }
    rows = [["", *found, "chance"]]
    for key, called in SHOWN.items():
        cells = [_cell(one, key) for one in found.values()]
        chance = next(iter(found.values())).chance.get(key)
        rows.append([called, *cells, "" if chance is None else _percent(chance)])
    return rows


def finetune_rows(probes: "Probes") -> Rows:
    """The accuracies of the fine-tuned encoders, with all labels and with ten a class; none where none was."""
    named = (("trained encoder", probes.trained), ("untrained encoder", probes.untrained))
    return [
        (name, [_cell(row.finetuned, "accuracy"), _cell(row.finetuned, "shots_10")])
        for name, row in named
        if row is not None and row.finetuned is not None
    ]


def target_rows(targets: "TargetProbes") -> list[list[str]]:
    """A table's header and its rows: each target that was measured, its score by each encoder, and that of chance."""
    sides = {"trained encoder": targets.trained, "untrained": targets.untrained, "raw pixels": targets.pixels}
    named = {name: probes for name, probes in sides.items() if probes is not None}
    rows = [["", *named, "chance"]]
    for i, trained in enumerate(targets.trained):
        if trained.score is None:
            continue
        cells = []
        for probes in named.values():
            score, interval = probes[i].score, probes[i].interval
            assert score is not None  # what is usable does not depend on features
            between = "no interval" if interval is None else f"{_two(interval[0])}, {_two(interval[1])}"
            cells.append(f"{_two(score)} [{between}]")
        rows.append([f"{trained.name}, {trained.kind}", *cells, _two(trained.chance)])
    return rows


def without_interval(targets: "Mapping[str, Any]") -> list[str]:
    """Why cells of target_rows have no interval, a line for each reason; targets: TargetProbes.to_dict()."""
    names: dict[str, list[str]] = {}
    for name, of in targets.items():
        for side in (of, of.get("untrained") or {}, of.get("pixels") or {}):
            reason = (side.get("protocol") or {}).get("interval")
            if side.get("score") is not None and side.get("interval") is None and reason:
                mine = names.setdefault(reason.removeprefix("none: "), [])
                mine += [] if name in mine else [name]
    return [f"No interval of {', '.join(of)}: {reason}." for reason, of in names.items()]


def _two(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"  # an R2 has no lower end


def last_line(found: "Estimate", of: str) -> str:
    """What there is to believe of an estimate, in a line: its value where it is trusted, else first what is certified.

    of: what was estimated.
    """
    if found.trusted:
        return f"{of}: {found.statement}"
    return f"{found.certified[0].upper()}{found.certified[1:]}: {of}; {found.mi:.2f} is not trusted"


def print_results(found: "Evaluation | Towers", saved: Any = None, health: str | None = None) -> None:
    """What an evaluation found, as its kind is shown. saved: where the run is. health: of its held-out features."""
    if hasattr(found, "x_to_y"):
        print_towers(found, saved, health)  # type: ignore[arg-type]
    else:
        print_evaluation(found.probes, found.mi, saved, health, found.identity, found.targets)  # type: ignore[union-attr]


def print_towers(found: "Towers", saved: Any = None, health: str | None = None) -> None:
    """Retrieval both ways and the MI of the modalities, on standard output, in at most 80 columns."""
    print("\n".join(str(found).splitlines()[:3]))  # without the MI, which follows with its reasons alone
    name = f"I(X; Y) of the {found.of}"
    if isinstance(found.mi, str):
        print(f"{name}: not measured: {found.mi}")
    else:
        print(f"{name}, by their projections: {_nats(found.mi)};")
        print(f"ceiling {found.mi.ceiling:.2f} nats, log of {found.mi.splits[2]} held-out pairs")
        for reason in found.mi.reasons:
            print(f"  {reason}")
    if health is not None:
        print(health)
    if saved is not None:
        print(f"Saved in {saved}")
    if not isinstance(found.mi, str):
        print(last_line(found.mi, name))


def print_terms(terms: "Terms", unit: "Literal['nats', 'bits']" = "nats") -> None:
    """The MI of a run's features on standard output: two views' in full, the others a line each and why not trusted.

    unit: "nats" or "bits".
    """
    if isinstance(terms.mi, str):
        print(f"I(Z1; Z2) of two views: not measured: {terms.mi}")
    else:
        print(f"I(Z1; Z2) of two views\n{terms.mi.shown(unit)}")
    for name, term, bound in (
        ("I(Z; label)", terms.label, "entropy of the label"),
        ("I(X; Z + noise), noise 1/3 of Z's rms", terms.noise, "capacity of the channel"),
        ("I(Z1 + noise; Z2 + noise), as much noise", terms.noisy_views, "capacity of the channel"),
    ):
        if isinstance(term, str):
            print(f"{name}: not measured: {term}")
        elif term is not None:
            of: Any = term if unit == "nats" else term.bits
            cap = "" if of.cap is None else f"; {bound} {of.cap:.2f}"
            print(f"{name}: {of.statement}{cap}")
            for reason in term.reasons:
                print(f"  {reason}")
    if isinstance(terms.identity, str):
        print(f"I(J; Z), which image a view shows: not measured: {terms.identity}")
    elif terms.identity is not None:
        print(identity_line(terms.identity, unit))
        per = 1.0 if unit == "nats" else math.log(2)
        flat, curve = terms.identity.saturates_at, terms.identity.curve
        said = f"rising still at {curve[-1][0]}" if flat is None else f"next to no more from {flat} on"
        print(f"  among N images: {', '.join(f'{n}: {nats / per:.2f}' for n, nats in curve)}; {said}")
    if isinstance(terms.chain, str):
        print(f"Chain of layers: not measured: {terms.chain}")
    elif terms.chain is not None:
        print("I(layer of view 1; Z of view 2), which can only fall along the layers")
        for layer, found in terms.chain.layers:
            after, said = found.protocol.get("composed"), (found if unit == "nats" else found.bits).statement
            said = said if after is None else f"{said.partition(';')[0]}, by the critic of {after}"
            print(f"  {layer:12} {said}")
        check = terms.chain.check
        print(f"  {check.verdict:4}  {check.name}: {check.sentence}")


def _nats(found: "Estimate") -> str:
    low, high = found.interval
    return f"{found.mi:.2f} nats [{low:.2f}, {high:.2f}], {'trusted' if found.trusted else 'NOT trusted'}"


def accuracies(row: "Probe | Balance") -> list[str]:
    """A probe's accuracies, or those of its balance, as cells of a table, in %, with their intervals."""
    from infomax.evaluation.probing import COLUMNS

    return [_cell(row, name) for name in COLUMNS]


def _cell(row: Any, name: str) -> str:
    value, interval = getattr(row, name), getattr(row, name + "_interval")
    if value is None:
        return "too few images"
    return f"{_percent(value)} [{'no interval' if interval is None else ', '.join(map(_percent, interval))}]"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}".replace("100.0", "100")
