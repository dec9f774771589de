"""The report page: one HTML file, which needs no network, about an estimate or about a saved run."""

import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infomax.errors import UserError
from infomax.estimation.result import Estimate
from infomax.files import write_text, write_whole
from infomax.ui.pictures import BLACK, BLUE, GREEN, ORANGE, drawn, health_curves

if TYPE_CHECKING:
    from infomax.evaluation import Probes, Terms, Towers

HIDDEN = ("scores", "audit")  # of a protocol: drawn, or a table of its own
POINTS = 400  # of a curve: more than a page can show

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 46rem; margin: 0 auto;
  padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere } h2 { font-size: 1.2rem; margin-top: 2rem }
h3 { font-size: 1rem; margin-top: 1.5rem }
.value { font-size: 1.3rem } figure { margin: 1rem 0 } figcaption, .small { font-size: .875rem; color: #555 }
svg { width: 100%; height: auto; max-width: 36rem } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem } th, td { text-align: left; padding: .25rem .8rem .25rem 0;
  border-bottom: 1px solid #ddd; vertical-align: top } td.n { font-variant-numeric: tabular-nums; white-space: nowrap }
ul.checks { list-style: none; padding: 0 } ul.checks li { margin: .5rem 0; padding-left: 4.2rem; text-indent: -4.2rem }
.v { display: inline-block; width: 3.6rem; margin-right: .6rem; text-indent: 0; text-align: center;
  border-radius: .25rem; color: #fff; font-size: .8rem; font-weight: 600 }
.pass { background: #00694d } .warn { background: #8a5a00 } .fail { background: #a93e00 }
details { margin: 1rem 0 } summary { cursor: pointer } code { overflow-wrap: anywhere }
</style>
</head>
<body>
{% macro badge(verdict) %}<span class="v {{ verdict }}">{{ verdict }}</span>{% endmacro %}
{% macro checks(found) %}<ul class="checks">
{% for c in found %}<li>{{ badge(c.verdict) }}<strong>{{ c.name }}</strong>: {{ c.sentence }}</li>
{% endfor %}</ul>{% endmacro %}
{% macro estimate(e, told) %}
<p class="value"><strong>{{ e.statement }}</strong></p>
<p>Value {{ nats(e.mi) }} nats, 95 % interval [{{ nats(e.interval[0]) }}, {{ nats(e.interval[1]) }}],
<strong>{{ "trusted" if e.trusted else "NOT TRUSTED" }}</strong>; {{ e.bits.statement.partition(";")[0] }}
{%- if e.p_value is not none %}; p = {{ "%.3g" | format(e.p_value) }} for independence{% endif %}
{%- if e.normalised is not none %}; {{ nats(e.normalised) }} where 1 is complete dependence{% endif %}.</p>
<p>{{ told }} {{ e.method }}; {{ e.shared_out }}.</p>
<figure>{{ axis(e) }}<figcaption>In nats. The floor holds with 95 % confidence whatever the critic; above the ceiling,
log of {{ e.splits[2] }} report pairs, nothing can be certified.{% if e.cap is not none %} The cap is an
upper bound, of a label the entropy that its shares in these pairs give.{% endif %}</figcaption></figure>
{{ checks(e.checks) }}
{% if e.protocol.get("audit") %}<details><summary>What each estimate of the audit gave</summary><div class="scroll">
<table><thead><tr><th>estimate</th><th>nats</th><th>95 % interval</th><th>pairs</th></tr></thead><tbody>
{% for name, r in e.protocol["audit"].items() %}<tr><td>{{ name }}</td><td class="n">{{ nats(r.mi) }}</td>
<td class="n">[{{ nats(r.interval[0]) }}, {{ nats(r.interval[1]) }}]</td><td class="n">{{ r.n }}</td></tr>
{% endfor %}</tbody></table></div></details>{% endif %}
{% if e.protocol.get("scores") %}<figure>{{ scores(e.protocol["scores"]) }}<figcaption>Scores, in nats, of
{{ e.protocol["scores"]["pairs"] }} held-out pairs (positives) and of all others among their rows (negatives). The less
they overlap, the higher the MI; where they do not, few negatives decide a value that leans on them.</figcaption>
</figure>{% endif %}
<details><summary>Protocol</summary><div class="scroll"><table><tbody>
{% for key, v in protocol(e) %}<tr><th scope="row">{{ key }}</th><td>{{ v }}</td></tr>
{% endfor %}</tbody></table></div></details>
{% endmacro %}
{% macro training() %}
{% if curve %}<h2>Training</h2>
<figure>{{ curve }}<figcaption>The objective's value on each training batch, in nats: what was maximised, and no
estimate of MI.</figcaption></figure>{% endif %}
{% if health %}<h2>Health</h2>
<figure>{{ health }}<figcaption>Of features of held-out samples, without labels but for kNN. Collapse shows as a RankMe
near 1, a deviation and a uniformity near 0, and an MI of 0.</figcaption></figure>{% endif %}
{% endmacro %}
<h1>{{ title }}</h1>
<p class="small">{{ subtitle }}</p>
{% if terms is none %}{{ estimate(value, told or value.quantity ~ ".") }}
{% if retrieval %}<h2>Retrieval</h2>
<p>% of {{ pairs }} held-out pairs whose right candidate is among the k best of all, with 95 % intervals.</p>
<div class="scroll"><table><thead><tr><th></th>{% for k in retrieval[0][1] %}<th>recall@{{ k }}</th>{% endfor %}</tr>
</thead><tbody>{% for name, row in retrieval %}<tr><th scope="row">{{ name }}</th>
{% for cell in row.values() %}<td class="n">{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% endif %}{{ training() }}{% else %}
<h2>I(Z1; Z2) of two views</h2>
{{ estimate(terms.mi, "Between features of two augmented views of held-out images.") }}
{% if probes is string %}<h2>Probes</h2>
<p>Not measured: {{ probes }}</p>
{% elif probes is not none %}<h2>Probes</h2>
<p>% right of {{ probes.trained.protocol["test_images"] }} test images, on frozen features, with 95 % intervals. All
choices were made on training images.</p>
<div class="scroll"><table><thead><tr><th></th><th>linear</th><th>10 images a class</th><th>kNN</th></tr></thead><tbody>
{% for name, row in rows %}<tr><th scope="row">{{ name }}</th>{% for cell in row %}<td class="n">{{ cell }}</td>
{% endfor %}</tr>{% endfor %}</tbody></table></div>{% endif %}
{{ training() }}
{% for name, told, term in others %}<h2>{{ name }}</h2>
{% if term is string %}<p>Not measured: {{ term }}</p>{% else %}{{ estimate(term, told) }}{% endif %}{% endfor %}
{% if terms.chain is not none %}<h2>Along the layers</h2>
{% if terms.chain is string %}<p>Not measured: {{ terms.chain }}</p>{% else %}
<p>I(layer of view 1; Z of view 2). Each layer is a function of the one before, so MI can only fall.</p>
<figure>{{ chain(terms.chain.layers) }}<figcaption>In nats, with 95 % intervals; filled where trusted.</figcaption>
</figure>
{{ checks([terms.chain.check]) }}
<div class="scroll"><table><thead><tr><th>layer</th><th>nats</th><th>95 % interval</th><th>why not trusted</th></tr>
</thead><tbody>
{% for name, e in terms.chain.layers %}<tr><th scope="row">{{ name }}</th><td class="n">{{ nats(e.mi) }}</td>
<td class="n">[{{ nats(e.interval[0]) }}, {{ nats(e.interval[1]) }}]</td><td>{{ e.reasons | join(" ") }}</td></tr>
{% endfor %}</tbody></table></div>{% endif %}{% endif %}
{% endif %}
<p class="small">Written by infomax {{ version }}.</p>
</body>
</html>
"""


def of_pairs(estimate: Estimate, title: str) -> str:
    """The page of an estimate from a user's pairs."""
    return _page(title=f"MI of {title}", subtitle=f"Seed {estimate.seed}.", value=estimate, terms=None)


def of_run(
    terms: "Terms", probes: "Probes | str | None", checkpoint: Mapping[str, Any] | None, run: Path, dataset: str
) -> str:
    """The page of a saved run: its training curve (log.jsonl), probes or why there are none, and the MI of features."""
    from infomax.ui import accuracies

    told = f"Evaluated on {dataset}. {_checkpoint(checkpoint)}".strip()
    others = [
        ("I(Z; label)", "The cap is the labels' entropy.", terms.label),
        (
            "I(X; Z + noise)",
            "Noise of a third of Z's root-mean-square; the cap is the channel's capacity.",
            terms.noise,
        ),
    ]
    rows: list[tuple[str, list[str]]] = []
    if probes is not None and not isinstance(probes, str):
        named = {
            "trained encoder": probes.trained, "untrained encoder": probes.untrained, "raw pixels": probes.pixels
        }  # fmt: skip
        rows = [(name, accuracies(row)) for name, row in named.items() if row is not None]
    return _page(
        title=f"Run {run_folder(run).resolve().name}",
        subtitle=told,
        terms=terms,
        probes=probes,
        rows=rows,
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
        terms=None, told="I(X; Y) of the two modalities, by their projections.", retrieval=retrieval,
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
    from importlib.metadata import PackageNotFoundError, version

    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    try:
        own = version("infomax")
    except PackageNotFoundError:
        own = "from source"
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
        "protocol": lambda estimate: list(_leaves(estimate)),
    }
    for picture in ("curve", "health"):
        content[picture] = placed(content.get(picture, ""))
    empty: dict[str, Any] = {
        "value": None, "probes": None, "rows": [], "others": [], "version": own, "told": "", "retrieval": [],
    }  # fmt: skip
    return environment.from_string(_PAGE).render(empty | content)


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
