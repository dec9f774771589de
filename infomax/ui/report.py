"""The report page: one HTML file, which needs no network, about an estimate or about a saved run."""

import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infomax import __version__
from infomax.errors import UserError
from infomax.estimation.result import Estimate
from infomax.files import write_text, write_whole
from infomax.ui.page import PAGE
from infomax.ui.pictures import BLACK, BLUE, GREEN, ORANGE, confusion, drawn, health_curves

if TYPE_CHECKING:
    from infomax.evaluation import Identity, Probes, TargetProbes, Terms, Towers

HIDDEN = ("scores", "audit")  # of a protocol: drawn, or a table of its own
POINTS = 400  # of a curve: more than a page can show


def of_pairs(estimate: Estimate, title: str) -> str:
    """The page of an estimate from a user's pairs."""
    return _page(title=f"MI of {title}", subtitle=f"Seed {estimate.seed}.", value=estimate, terms=None)


def of_run(
    terms: "Terms",
    probes: "Probes | str | None",
    checkpoint: Mapping[str, Any] | None,
    run: Path,
    dataset: str,
    targets: "TargetProbes | None" = None,
) -> str:
    """The page of a saved run: its training curve (log.jsonl), probes or why there are none, and the MI of features."""
    from infomax.evaluation.common import left_out
    from infomax.ui.tables import probe_rows, retrieval_rows, target_rows, without_interval

    told = f"Evaluated on {dataset}. {_checkpoint(checkpoint)}".strip()
    others = [
        ("I(Z; label)", "The cap is the labels' entropy.", terms.label),
        (
            "I(X; Z + noise)",
            "Noise of a third of Z's root-mean-square; the cap is the channel's capacity.",
            terms.noise,
        ),
        (
            "I(Z1 + noise; Z2 + noise)",
            "Of two views, with as much noise on both; the cap is the channel's capacity.",
            terms.noisy_views,
        ),
    ]
    shown = None if isinstance(probes, str) else probes
    return _page(
        title=f"Run {run_folder(run).resolve().name}",
        subtitle=told,
        terms=terms,
        probes=probes,
        left_out=None if shown is None else left_out(shown.trained.protocol),
        rows=[] if shown is None else probe_rows(shown),
        by_label=[] if shown is None or shown.trained.retrieval is None else retrieval_rows(shown),
        targets=[] if targets is None else target_rows(targets),
        without_interval=[] if targets is None else without_interval(targets.to_dict()),
        unmeasured=[] if targets is None else [p for p in targets.trained if p.score is None],
        balance=None if shown is None else shown.trained.balance,
        balanced=[] if shown is None else probe_rows(shown, balanced=True),
        **_training(run),
        others=[other for other in others if other[2] is not None],
    )


def of_towers(towers: "Towers", run: Path) -> str:
    """The page of a run of two towers: I(X; Y) of its modalities, retrieval both ways, and its training curve."""
    retrieval = [
        (name, {k: f"{100 * value:.1f} [{100 * way.intervals[k][0]:.1f}, {100 * way.intervals[k][1]:.1f}]"
                for k, value in way.values.items()})
        for name, way in (("y found by x", towers.x_to_y), ("x found by y", towers.y_to_x))
    ]  # fmt: skip
    return _page(
        title=f"Run {run_folder(run).resolve().name}", subtitle=_checkpoint(towers.checkpoint), value=towers.mi,
        terms=None, retrieval=retrieval,
        told=f"I(X; Y) of the {towers.of.replace('modalities', 'two modalities')}, by their projections.",
        pairs=towers.pairs, **_training(run),
    )  # fmt: skip


def _training(run: Path) -> dict[str, str]:
    log = run_folder(run) / "log.jsonl"
    return {"curve": _curve(_records(log)), "health": health_curves(log)}


def _checkpoint(checkpoint: Mapping[str, Any] | None) -> str:
    if checkpoint is None:
        return ""
    return f"Checkpoint of step {checkpoint['step']}, checksum {checkpoint['checksum'][:12]}."


def run_folder(run: Path) -> Path:
    """The folder of the run that `run`, a run's or a checkpoint's folder, belongs to."""
    return run.parent if (run / "MANIFEST.json").exists() and (run.parent / "run.json").exists() else run


def require(path: Path) -> None:
    """Raises UserError where no page can be written, before anything is measured for it."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"A report is an HTML page: name it {path.with_suffix('.html')}, not {path}.")
    if path.is_dir():
        raise UserError(f"{path} is a folder; a report needs the name of a file.")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is no folder, so {path.name} cannot be written there; make it first.")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path.parent} is not writable, so {path.name} cannot be written there.")


def write(path: Path, page: str) -> None:
    """Writes a page whole or not at all. Raises UserError where it cannot be written."""
    require(path)
    try:
        write_whole(path, lambda temporary: write_text(temporary, page))
    except OSError as error:
        raise UserError(f"{path} could not be written ({error}).") from error


def _page(**content: Any) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from infomax.evaluation.probing import COLUMNS

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    numbers = itertools.count()

    def placed(svg: str) -> Markup:
        mark = f"p{next(numbers)}-"  # identifiers are one name space over a page
        for before in ('id="', 'href="#', "url(#"):
            svg = svg.replace(before, before + mark)
        return Markup(svg)

    environment.globals |= {
        "nats": _nats,
        "axis": lambda estimate: placed(_axis(estimate)),
        "scores": lambda found: placed(_scores(found)),
        "chain": lambda layers: placed(_layers(layers)),
        "identity": lambda found: placed(_identity(found)),
        "percent": lambda value: "-" if value is None else f"{100 * value:.1f}",
        "confusion": lambda balance: placed(confusion(balance)),
        "protocol": lambda estimate: list(_leaves(estimate)),
        "columns": list(COLUMNS.values()),
    }
    for picture in ("curve", "health"):
        content[picture] = placed(content.get(picture, ""))
    empty: dict[str, Any] = {
        "value": None, "probes": None, "rows": [], "others": [], "version": __version__, "told": "", "retrieval": [],
        "balance": None, "targets": [], "without_interval": [], "unmeasured": [], "balanced": [], "left_out": None,
        "by_label": [],
    }  # fmt: skip
    return environment.from_string(PAGE).render(empty | content)


def _nats(value: float | None) -> str:
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _leaves(estimate: Estimate) -> Iterator[tuple[str, str]]:
    """What there is to know to repeat an estimate, a line each. What every fold has is one line: its value where the
    folds agree, else theirs in turn."""
    yield from {"method": estimate.method, "critic": estimate.critic, "seed": str(estimate.seed)}.items()

    def walk(value: Any, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield from walk(item, f"{name}, {key}".removeprefix(", "))
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for key in dict.fromkeys(key for item in value for key in item):
                column = [item.get(key) for item in value]
                yield from walk(column[0] if column.count(column[0]) == len(column) else column, f"{name}, {key}")
        else:
            yield name.replace("_", " "), _told(value)

    yield from walk({key: value for key, value in estimate.protocol.items() if key not in HIDDEN}, "")


def _told(value: Any) -> str:
    """A value as a person writes it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_told, value))
    return str(value)


# Pictures -------------------------------------------------------------------------------------------------------------


def _axis(e: Estimate) -> str:
    marks = [("floor", e.floor, ">", GREEN), ("ceiling", e.ceiling, "s", BLACK)]
    marks += [] if e.cap is None else [("cap", e.cap, "<", ORANGE)]
    marks = [mark for mark in marks if math.isfinite(mark[1])]
    known = [mark[1] for mark in marks] + [v for v in (e.mi, *e.interval) if math.isfinite(v)]
    told = ", ".join(f"{name} {at:.2f}" for name, at, _, _ in marks)
    out: list[str] = []
    with drawn(4.6, 1.6, f"Value {_nats(e.mi)} nats; {told}", out) as ax:
        if math.isfinite(e.mi):
            low, high = (v if math.isfinite(v) else e.mi for v in e.interval)
            error = [[max(0.0, e.mi - low)], [max(0.0, high - e.mi)]]
            ax.errorbar(
                [e.mi], [0], xerr=error, fmt="o", color=BLUE, capsize=5, markersize=8, label=f"value {e.mi:.2f}"
            )
        for name, at, shape, colour in marks:
            ax.plot([at], [0], shape, color=colour, markersize=9, label=f"{name} {at:.2f}", clip_on=False)
            ax.axvline(at, color=colour, linewidth=1, linestyle=":")
        ax.axvline(0, color="#999999", linewidth=1)
        span = max(*known, 0.0) - min(*known, 0.0) or 1.0
        ax.set_xlim(min(*known, 0.0) - 0.05 * span, max(*known, 0.0) + 0.05 * span)
        ax.set_ylim(-1, 1)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.set_xlabel("nats")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return out[0]


def _scores(found: Mapping[str, Any]) -> str:
    out: list[str] = []
    with drawn(4.6, 2.4, "Distribution of scores of positives and negatives", out) as ax:
        ax.stairs(found["negative"], found["edges"], fill=True, color=ORANGE, alpha=0.45, label="negatives")
        ax.stairs(found["positive"], found["edges"], color=BLUE, linewidth=2, label="positives")
        ax.locator_params(axis="x", nbins=6)
        ax.set_xlabel("score, nats")
        ax.set_ylabel("share")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return out[0]


def _identity(found: "Identity") -> str:
    out: list[str] = []
    sizes = [size for size, _ in found.curve]
    with drawn(4.6, 2.4, f"I(J; Z) among 2 to {sizes[-1]} images", out) as ax:
        ax.plot(sizes, [math.log(size) for size in sizes], color=BLACK, linestyle="--", label="log N")
        ax.plot(sizes, [nats for _, nats in found.curve], color=BLUE, marker=".", label="read by the classifier")
        low, high = found.interval
        reach = [[max(0.0, found.mi - low)], [max(0.0, high - found.mi)]]
        ax.errorbar([found.among], [found.mi], yerr=reach, fmt="o", color=ORANGE, capsize=4, label="value")
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.minorticks_off()
        ax.set_xlabel("N, images")
        ax.set_ylabel("nats")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return out[0]


def _layers(layers: Sequence[tuple[str, Estimate]]) -> str:
    out: list[str] = []
    with drawn(4.6, 0.7 + 0.35 * len(layers), "MI of each layer with the other view's features", out) as ax:
        for place, (_, e) in enumerate(layers):
            if math.isfinite(e.mi):
                reach = [[max(0.0, side) if math.isfinite(side) else 0.0] for side in e.reach]
                face = BLUE if e.trusted else "white"
                ax.errorbar([e.mi], [place], xerr=reach, fmt="o", color=BLUE, capsize=4, mfc=face)
        ax.set_yticks(range(len(layers)), [name for name, _ in layers])
        ax.set_ylim(len(layers) - 0.5, -0.5)
        ax.axvline(0, color="#999999", linewidth=1)
        ax.set_xlabel("nats")
    return out[0]


def _records(log: Path) -> list[tuple[int, float, float]]:
    """Step, value and ceiling of each line of a log that can be read and drawn."""
    found: list[tuple[int, float, float]] = []
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in log.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):  # a line that is being written
                record = json.loads(line)
                step, mi, ceiling = int(record["number"]), float(record["mi"]), float(record["ceiling"])
                if math.isfinite(mi) and math.isfinite(ceiling):
                    found.append((step, mi, ceiling))
    return found


def _curve(records: Sequence[tuple[int, float, float]]) -> str:
    if not records:
        return ""
    size = math.ceil(len(records) / POINTS)
    groups = [records[i : i + size] for i in range(0, len(records), size)]
    steps, values, ceilings = ([sum(r[k] for r in g) / len(g) for g in groups] for k in range(3))
    out: list[str] = []
    with drawn(4.6, 2.4, f"The objective over {records[-1][0]} steps, last {records[-1][1]:.2f} nats", out) as ax:
        ax.plot(steps, values, color=BLUE, label="value of a batch", marker="o" if len(steps) == 1 else "")
        ax.plot(steps, ceilings, color=BLACK, linestyle="--", label="ceiling, log N")
        span = max(ceilings[-1], max(values)) or 1.0
        ax.set_ylim(max(min(values), -span), 1.08 * span)  # an explosion must not hide the rest
        ax.set_xlabel("step")
        ax.set_ylabel("nats")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return out[0]
