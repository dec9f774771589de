"""The model card of a run, README.md: what was trained, on what, by which command, and what each number is worth."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from infomax.evaluation.common import left_out
from infomax.evaluation.probing import COLUMNS
from infomax.ship.record import Record, shortened, started_by
from infomax.ui.registers import objective_rows
from infomax.ui.tables import without_interval

HEALTH = (  # of log.jsonl: its name, the name that people know, and what is healthy
    ("rankme", "RankMe", "effective rank of features; 1 is collapsed"),
    ("alpha_req", "alpha-ReQ", "decay of the spectrum; near 1 is said to be best"),
    ("lidar", "LiDAR", "effective rank of what tells images apart"),
    ("alignment", "alignment", "squared distance of two views, 0 to 4; small is aligned"),
    ("uniformity", "uniformity", "0 is collapsed, more negative is more even"),
    ("feature_std", "feature deviation", "0 is collapsed, 1 is centred"),
    ("projection/rankme", "RankMe of projections", "the same of what the critic compares"),
    ("projection/feature_std", "deviation of projections", "the same of what the critic compares"),
)
ENCODERS = (("the encoder", None), ("an untrained encoder", "untrained"), ("raw pixels", "pixels"))


def metadata(record: Record, license: str | None = None) -> Any:
    """The metadata of a card, a huggingface_hub.ModelCardData: library, tags, and accuracies as evaluation results.

    record: of the run. license: an identifier, such as apache-2.0; None for none.
    """
    from huggingface_hub import EvalResult, ModelCardData

    data = _data(record) or "not known"
    probe = _measured(record, "probe")
    found = [
        EvalResult(
            task_type="image-classification", dataset_type=_identifier(data), dataset_name=data, dataset_split="test",
            metric_type="accuracy", metric_value=probe[key], metric_name=f"{name} probe on frozen features",
        )
        for key, name in COLUMNS.items()
        if probe.get(key) is not None
    ]  # fmt: skip
    timm = record.config is not None
    return ModelCardData(
        library_name="timm" if timm else None,
        license=license,
        pipeline_tag="image-feature-extraction" if timm else "feature-extraction",
        tags=["infomax", "mutual-information", "self-supervised-learning", *(["timm"] if timm else [])],
        model_name=record.run.resolve().name if found else None,
        eval_results=found or None,
    )


def card(record: Record, place: str, license: str | None = None) -> str:
    """README.md, with metadata() at its head.

    record: of the run. place: what timm.create_model is called with, hf-hub:USER/NAME or local-dir:FOLDER. license: as
    metadata() takes it.
    """
    parts = (
        _head(record), _use(record, place), _training(record), _probes(record), _targets(record), _retrieval(record),
        _information(record), _health(record), _limits(record),
    )  # fmt: skip
    return f"---\n{metadata(record, license).to_yaml()}\n---\n\n" + "\n\n".join(p for p in parts if p) + "\n"


def needs_import(architecture: str) -> bool:
    """Whether timm knows an architecture only once infomax is imported, which registers it.

    architecture: timm's name, without a tag of weights.
    """
    import timm

    return timm.is_model(architecture) and timm.model_entrypoint(architecture).__module__.startswith("infomax.")


def features_in_words(record: Record) -> str:
    """What goes in and what comes out: "images [n, 1, 28, 28] -> features [n, 256]". record: of the run."""
    from infomax.encoders import features_of

    size = record.input_size or ((record.config or {}).get("in_chans", "channels"), "height", "width")
    try:
        width: Any = features_of(record.encoder)
    except ValueError:  # an encoder of the user's own may not say
        width = "features"
    return f"[n, {', '.join(map(str, size))}] -> [n, {width}]"


def _head(record: Record) -> str:
    name = record.config["name"] if record.config else str(record.described)
    what = (
        f"An encoder, `{name}`, {features_in_words(record)}, trained without labels by maximising mutual information."
    )
    return f"# {record.run.resolve().name}\n\n{what} Every number below was measured by the run itself."


def _use(record: Record, place: str) -> str:
    config = record.config
    if config is None:
        return ""
    ours = needs_import(config["name"])
    first = "import infomax.encoders  # registers this encoder with timm\n" if ours else ""
    known = "values in [0, 1]" + (
        ""
        if record.mean is None or record.std is None
        else f", less the mean {_numbers(record.mean)}, divided by the deviation {_numbers(record.std)}, a number a"
        " channel"
    )
    return (
        f"## Use\n\n```python\n{first}import timm\n\n"
        f'encoder = timm.create_model("{place}", pretrained=True).eval()\n'
        f"features = encoder(images)  # {features_in_words(record)}\n```\n\nImages: {known}."
        + (
            f" `{config['name']}` is infomax's: without `import infomax.encoders` timm does not know the name."
            " infomax is not on PyPI: `pip install .` in a clone installs it."
            if ours
            else ""
        )
    )


def _training(record: Record) -> str:
    c = record.configuration
    model = record.checkpoint.model or {}
    objective = str(c.get("objective") or (model.get("parts") or {}).get("objective") or "")
    words = next((r["words"] for r in objective_rows() if r["name"] == objective.partition("(")[0].lower()), "")
    notes = [str(n) for n in c.get("data_notes") or ()]
    left = len(c.get("data_left_out") or ())
    rows = {
        "objective": f"`{objective}`" + (f": {words}" if words else "") if objective else "not known",
        "data set": f"{_data(record) or 'not known'}; fingerprint: {c.get('data', 'not known')}",
        "notes on the data": " ".join([*notes, *([f"{left} files were left out."] if left else [])]),
        "started from": c.get("start") or "an untrained encoder",
        "views": (record.checkpoint.preprocessing or {}).get("views"),
        "length": f"{record.checkpoint.step} steps"
        + (f" of {c['batch_size']} pairs, seed {c['seed']}" if {"batch_size", "seed"} <= set(c) else ""),
        "checkpoint": f"step {record.checkpoint.step}, sha256 {record.checkpoint.checksum}",
        "versions": ", ".join(f"{k} {v}" for k, v in record.versions.items()),
    }
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows.items() if value)
    lines = started_by(c)
    command = ""
    if lines:
        recipe = str(c["recipe"])
        command = f"\n\nThe command:\n\n```bash\n{_recipe(recipe)}" + "\n".join(lines) + "\n```"
        if any(shortened(str(v)) != str(v) for v in c.values() if isinstance(v, str)):
            command += "\n\nFolders of the machine are left out of names of files."
    return f"## Training\n\n| | |\n|---|---|\n{table}{command}"


def _recipe(name: str) -> str:
    from infomax.ui.recipes import names

    return f"infomax recipe {name}\n" if name in names() else ""


def _probes(record: Record) -> str:
    probe = _measured(record, "probe")
    if "accuracy" not in probe:
        why = probe.get("not_measured") or (record.results if isinstance(record.results, str) else None)
        return "" if why is None else f"## Probes\n\nNot measured: {str(why).rstrip('.')}."
    p = probe.get("protocol", {})
    lines = [
        "## Probes",
        f"Accuracy in % on frozen features of {p.get('test_images', '?')} test images, with 95 % intervals:",
        _accuracies(probe),
        _protocol(p),
        *([said] if (said := left_out(p)) else []),
    ]
    balance = probe.get("balance")
    if isinstance(balance, Mapping) and balance.get("unbalanced"):
        of_all = {"": probe, **{k: probe.get(k) or {} for k in ("untrained", "pixels")}}
        balanced = of_all[""]["balance"] | {k: (of_all[k].get("balance") or {}) for k in ("untrained", "pixels")}
        lines += [
            f"Classes are unbalanced: always answering {balance['majority']} is right {_percent(balance['share'])} % of"
            " the time. Balanced accuracy, the mean of the classes' recalls, in %:",
            _accuracies(balanced),
        ]
    return "\n\n".join(lines)


def _accuracies(probe: Mapping[str, Any]) -> str:
    rows = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---|---|---|---|"]
    for name, key in ENCODERS:
        of: Any = probe if key is None else probe.get(key)
        if of:
            cells = [_with_interval(of.get(k), of.get(f"{k}_interval")) for k in COLUMNS]
            rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _protocol(p: Mapping[str, Any]) -> str:
    linear, knn, shots = (p.get(key) or {} for key in ("linear", "knn", "shots_10"))
    validation = (p.get("held_out") or {}).get("images", "?")
    said = [
        f"Protocol: fitted on {p.get('train_images', '?')} training images; hyper-parameters chosen on {validation} of"
        f" them that were held out (validation); the test set was used {str(p.get('test_used', 'once')).rstrip('.')}."
        f" Linear: logistic regression, C = {linear.get('C', '?')}. kNN: k = {knn.get('k', '?')}, by cosine."
    ]
    if "draws" in shots:
        said.append(f"10 images a class: the mean of {shots['draws']} draws of the training images.")
    elif shots.get("reason"):
        said.append(f"10 images a class: not measured: {str(shots['reason']).rstrip('.')}.")
    return " ".join(said)


def _targets(record: Record) -> str:
    targets = _measured(record, "probe").get("targets") or {}
    rows = []
    for name, of in targets.items():
        sides = (of, of.get("untrained") or {}, of.get("pixels") or {})
        cells = [_two(s.get("score"), s.get("interval")) for s in sides]
        rows.append(f"| {_cell(name)}, {of.get('kind', '')} | {' | '.join(cells)} | {_two(of.get('chance'), None)} |")
    head = "| | the encoder | untrained encoder | raw pixels | chance |\n|---|---|---|---|---|\n"
    said = "## Targets\n\nR2 of numbers and mean average precision of words, with 95 % intervals:\n\n"
    reasons = [f"\n\n{_cell(line)}" for line in without_interval(targets)]
    return said + head + "\n".join(rows) + "".join(reasons) if rows else ""


def _retrieval(record: Record) -> str:
    found = _measured(record, "retrieval")
    rows = []
    for name, key in (("y found by x", "x_to_y"), ("x found by y", "y_to_x")):
        of = found.get(key) or {}
        ranks = [k for k in of if not k.endswith("_interval")]
        rows += [f"| {name}, {k} | {_with_interval(of[k], of.get(f'{k}_interval'))} |" for k in ranks]
    said = f"## Retrieval\n\nAmong {found.get('pairs', '?')} held-out pairs, in %, with 95 % intervals:\n\n"
    return said + "| | |\n|---|---|\n" + "\n".join(rows) if rows else ""


def _information(record: Record) -> str:
    estimate = _measured(record, "estimate")
    if "statement" not in estimate and "not_measured" not in estimate:
        why = record.results if isinstance(record.results, str) else "the run has no estimate"
        return f"## Mutual information\n\nNot measured: {why}."
    towers = isinstance(record.results, dict) and "retrieval" in record.results
    name = "I(X; Y) of the two sides of a pair, by their projections" if towers else "I(Z1; Z2) of two views' features"
    if "statement" in estimate:
        lines = [f"- {name}: {estimate['statement']}. Verdict: {_verdict(estimate)}."]
        lines += [f"  - {reason}" for reason in estimate.get("reasons") or ()]
    else:
        lines = [f"- {name}: not measured: {str(estimate['not_measured']).rstrip('.')}."]
    names = {
        "identity": "I(J; Z), which of N held-out images a view shows",
        "label": "I(Z; label)",
        "noise": "I(X; Z + noise)",
    }
    for key, name in names.items():
        of = estimate.get(key) or {}
        if of.get("not_measured"):
            lines.append(f"- {name}: not measured: {str(of['not_measured']).rstrip('.')}.")
        elif of.get("statement"):
            if key == "identity":
                name = name.replace("N held-out", f"{of.get('among', 'N')} held-out")
            lines.append(f"- {name}: {of['statement']}. Verdict: {_verdict(of)}.")
        elif key == "identity" and not towers:
            lines.append(f"- {name}: not measured by this run.")
    e = estimate
    if "statement" in e:
        splits = " / ".join(f"{n:,}" for n in e.get("splits") or ())
        lines.append(f"\nEstimator: {e.get('method')}, critic: {e.get('critic')}, seed {e.get('seed')}; pairs (train /"
                     f" validation / test): {splits}.")  # fmt: skip
    return "## Mutual information\n\nIn nats, with 95 % intervals, of held-out images.\n\n" + "\n".join(lines)


def _verdict(of: Mapping[str, Any]) -> str:
    return "trusted" if of.get("trusted") else "NOT trusted"


def _health(record: Record) -> str:
    if record.health is None:
        return "## Health\n\nNot measured."
    step, numbers = record.health
    rows = []
    for tower in ("", "x/", "y/"):
        of = f" of {tower[0]}" if tower else ""
        rows += [
            f"| {name}{of} | {numbers[f'health/{tower}{key}']:.3g} | {meaning} |"
            for key, name, meaning in HEALTH
            if f"health/{tower}{key}" in numbers
        ]
    if "health/mi" in numbers:
        rows.append(
            f"| held-out value of the objective, nats | {numbers['health/mi']:.2f} | of at most"
            f" {numbers.get('health/ceiling', float('nan')):.2f} |"
        )
    head = "| | | |\n|---|---|---|\n"
    return f"## Health\n\nOf held-out features after step {step}:\n\n{head}" + "\n".join(rows)


def _limits(record: Record) -> str:
    c = record.configuration
    data = _data(record)
    said = [
        "The run does not say what it was trained on."
        if data is None
        else f"It was trained on {data} alone, and nothing was measured on other data."
    ]
    if isinstance(record.results, str):
        said.append(f"Probes and mutual information are not known: {record.results}.")
    else:
        estimate = _measured(record, "estimate")
        if "statement" in estimate and not estimate.get("trusted"):
            said.append(
                "The point estimate of the mutual information is not trusted: cite nothing but what is certified."
            )
        probe = _measured(record, "probe")
        baselines = {name: probe.get(key) or {} for name, key in ENCODERS if key is not None}
        for name, of in baselines.items():
            measured = probe.get("accuracy") is not None and of.get("accuracy") is not None
            if measured and probe["accuracy_interval"][0] <= of["accuracy_interval"][1]:  # intervals that overlap
                said.append(f"Its linear probe is not clearly above that of {name}.")
    if record.health is not None and record.health[0] < record.checkpoint.step:
        said.append(f"Its health was measured {record.checkpoint.step - record.health[0]} steps before its end.")
    if c.get("start"):
        said.append("It starts from other weights, whose licence and training data are not described here.")
    if record.mean is None:
        said.append("The run does not say by what mean and deviation its images were standardised.")
    said.append("Mutual information of features does not say how well they serve a task; the probes do.")
    return "## Limits\n\n" + "\n".join(f"- {each}" for each in said)


def _data(record: Record) -> str | None:
    name = record.configuration.get("dataset")
    return shortened(name) if isinstance(name, str) else None


def _measured(record: Record, what: str) -> dict[str, Any]:
    found = record.results.get(what) if isinstance(record.results, dict) else None
    return found if isinstance(found, dict) else {}


def _with_interval(value: Any, interval: Sequence[float] | None) -> str:
    if value is None:
        return "not measured"
    return _percent(value) + ("" if not interval else f" [{', '.join(map(_percent, interval))}]")


def _two(value: Any, interval: Sequence[float] | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.2f}" + ("" if not interval else f" [{interval[0]:.2f}, {interval[1]:.2f}]")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.6g}" for v in values)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _identifier(data: str) -> str:
    """The Hub wants a word for the data set."""
    return PurePath(data.partition("?")[0].replace(":", "/")).name or "data"
