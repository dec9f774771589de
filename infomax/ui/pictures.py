"""Pictures for the report page: axes whose drawing is SVG text, and the curves of a run's health."""

import contextlib
import io
import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infomax.evaluation.balance import Balance

# Okabe & Ito's colours, which the colour-blind tell apart; marks and words differ too. (2008)
BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#222222"

STYLES = ((BLUE, "-o"), (ORANGE, "-s"), (GREEN, "-^"), (BLACK, "-v"))  # of the lines of a panel
Lines = list[tuple[str, list[tuple[int, float]]]]  # by name: steps and values
# Of each panel: its title, and the numbers of log.jsonl in it with their words; of two towers each has its own.
PANELS: tuple[tuple[str, dict[str, str]], ...] = (
    ("effective rank", {"health/rankme": "RankMe", "health/lidar": "LiDAR", "health/projection/rankme": "projection"}),
    ("MI on held-out samples, nats", {"health/mi": "value", "health/ceiling": "ceiling"}),
    ("deviation, 0 to 1", {"health/feature_std": "features", "health/projection/feature_std": "projection"}),
    ("alignment, uniformity", {"health/alignment": "alignment", "health/uniformity": "uniformity"}),
    ("alpha-ReQ", {"health/alpha_req": "exponent"}),
    ("kNN accuracy, %", {"probe/knn": "held-out"}),
)

COMPARED = (  # panels of runs side by side, and their numbers
    ("the objective's value of a batch, nats", "objective"),
    ("its value on held-out samples, nats", "health/mi"),
    ("kNN accuracy, %", "probe/knn"),
    ("effective rank (RankMe)", "health/rankme"),
)


@contextlib.contextmanager
def drawn(width: float, height: float, label: str, out: list[str], rows: int = 1, columns: int = 1) -> Iterator[Any]:
    """An axis to draw on, or rows x columns of them; its picture, as SVG that a page may hold, is appended to `out`."""
    import matplotlib
    from markupsafe import escape
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    # Text stays text, and the same page comes out of the same numbers.
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": label,
        "font.family": "sans-serif",
        "font.size": 10,
        "text.parse_math": False,  # a class may be called "$5_$10"
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for ax in axes.flat:
            for side in ("top", "right"):
                ax.spines[side].set_visible(False)
        yield axes if rows * columns > 1 else axes[0, 0]
        buffer = io.StringIO()
        with warnings.catch_warnings():  # the reader's fonts show the text, and may have what matplotlib's lacks
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from|Matplotlib currently does not support")
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
    out.append(svg)


def confusion(balance: "Balance") -> str:
    """The confusion of a probe's classes as SVG, shares of each row in %; names and numbers while there is room."""
    assert balance.confusion is not None
    counts, names = balance.confusion, [row.name for row in balance.classes]
    shares = [[100 * n / max(sum(row), 1) for n in row] for row in counts]
    k = len(names)
    side, room = (0.42 * k + 1.6, k <= 16) if k <= 16 else (6.5, False)
    out: list[str] = []
    with drawn(max(side, 4.6), max(side - 0.3, 2.6), f"Confusion of {k} classes", out) as ax:
        ax.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
        for i, row in enumerate(shares if room else ()):
            for j, share in enumerate(row):
                if share > 0:
                    text = f"{share:.0f}" if share >= 0.5 else "<1"
                    ax.text(j, i, text, ha="center", va="center", color="white" if share > 55 else BLACK, fontsize=8)
        every = range(0, k, -(-k // 25))
        shown = [names[i] if len(names[i]) <= 14 else f"{names[i][:13]}\u2026" for i in every]
        turned = max(map(len, shown)) > 2
        ax.set_xticks(every, shown, rotation=90 if turned else 0, fontsize=8)
        ax.set_yticks(every, shown, fontsize=8)
        ax.set_xlabel("taken for")
        ax.set_ylabel("class")
    return out[0]


def health_curves(log: Path) -> str:
    """The numbers of health over a run's steps, a panel a kind, as SVG; "" where the log has none. log: log.jsonl."""
    series = _series(log)
    panels = [(title, lines) for title, names in PANELS if (lines := _lines(names, series))]
    if not panels:
        return ""
    out: list[str] = []
    rows = math.ceil(len(panels) / 2)
    with drawn(7.2, 2.4 * rows, "Health of held-out features over the steps", out, rows, 2) as axes:
        for ax in axes.flat[len(panels) :]:
            ax.set_visible(False)
        for ax, (title, lines) in zip(axes.flat, panels, strict=False):
            for (name, points), (colour, style) in zip(lines, STYLES, strict=False):
                steps, values = zip(*points, strict=True)
                ceiling = name == "ceiling"
                ax.plot(
                    steps, values, "--" if ceiling else style, color=BLACK if ceiling else colour,
                    markersize=0 if ceiling and len(steps) > 1 else 3, label=name,
                )  # fmt: skip
            ax.set_title(title, fontsize=10, loc="left")
            ax.set_xlabel("step")
            ax.locator_params(axis="x", nbins=5, integer=True)
            low = min(0.0, *(value for _, points in lines for _, value in points))
            ax.set_ylim(bottom=low if low == 0 else None)
            if len(lines) > 1:
                ax.legend(frameon=False, fontsize=8)
    return out[0]


def compared_curves(logs: dict[str, Path]) -> str:
    """Runs over each other, a panel a number, as SVG; "" where no log can be read. logs: log.jsonl by run."""
    known = {label: _series(log) | _objective(log) for label, log in logs.items()}
    panels = [(title, name) for title, name in COMPARED if any(name in series for series in known.values())]
    if not panels:
        return ""
    out: list[str] = []
    with drawn(
        4.6, 2.1 * len(panels) + 0.2 * len(logs), f"{len(logs)} runs while they trained", out, len(panels)
    ) as axes:
        axes = [axes] if len(panels) == 1 else list(axes.flat)
        for ax, (title, name) in zip(axes, panels, strict=True):
            for i, series in enumerate(known.values()):
                colour, style = STYLES[i % len(STYLES)]
                dots = "" if name == "objective" else style[1:]  # a marker a step would be a band
                if points := series.get(name):
                    line = ("-", "--", ":")[i // len(STYLES) % 3]
                    ax.plot(*zip(*points, strict=True), dots + line, color=colour, markersize=3, linewidth=1.2)
            ax.set_title(title, fontsize=10, loc="left")
            ax.locator_params(axis="x", nbins=5, integer=True)
        axes[-1].set_xlabel("step")
        for i in range(len(known)):
            colour, style = STYLES[i % len(STYLES)]
            axes[0].plot([], [], style[1:] + ("-", "--", ":")[i // len(STYLES) % 3], color=colour)
        # Named afterwards: a legend leaves out what is called "_...".
        legend = axes[0].legend(
            axes[0].get_lines()[-len(known) :], ["run"] * len(known), loc="lower left", bbox_to_anchor=(0, 1.15),
            frameon=False, fontsize=9,
        )  # fmt: skip
        for text, label in zip(legend.get_texts(), known, strict=True):
            text.set_text(label)
    return out[0]


def _objective(log: Path) -> dict[str, list[tuple[int, float]]]:
    """The value of each batch, the mean of as many as leave 200 points; {} where there is none."""
    points: list[tuple[int, float]] = []
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in log.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):  # a line that is being written
                record = json.loads(line)
                if math.isfinite(mi := float(record["mi"])):
                    points.append((int(record["number"]), mi))
    size = math.ceil(len(points) / 200) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    means = [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
    return {"objective": means} if means else {}


def health_at(log: Path, step: int | None) -> dict[str, tuple[int, float]]:
    """Of each number of health in a run's log.jsonl, by name, the last that was measured up to a step, and its step.

    step: None for the last of all.
    """
    found = {}
    for name, points in _series(log).items():
        if until := [point for point in points if step is None or point[0] <= step]:
            found[name] = until[-1]
    return found


def _series(log: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by name, of each line that can be read and holds numbers of health."""
    found: dict[str, dict[int, float]] = {}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in log.read_text(encoding="utf-8").splitlines():
            if '"health/' not in line and '"probe/' not in line:
                continue
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):  # a line that is being written
                record = json.loads(line)
                for name, value in record.items():
                    if name.startswith(("health/", "probe/")) and value is not None and math.isfinite(float(value)):
                        found.setdefault(name, {})[int(record["number"])] = 100 ** (name == "probe/knn") * float(value)
    return {name: sorted(points.items()) for name, points in found.items()}


def _lines(
    names: dict[str, str], series: dict[str, list[tuple[int, float]]]
) -> list[tuple[str, list[tuple[int, float]]]]:
    """What a panel shows, with its words."""
    lines: Lines = []
    for name, word in names.items():
        for tower in ("", "x/", "y/") if name.startswith("health/") else ("",):
            points = series.get(name.replace("health/", f"health/{tower}"))
            if points:
                lines.append((f"{word} {tower[:1]}".strip(), points))
    return lines
