"""Columns chosen by infomax.sklearn beside mutual_info_classif: what a classifier or a regression makes of them."""

import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from infomax import errors
from infomax.benchmarks import cells
from infomax.benchmarks.cells import Cell
from infomax.estimation.questions.select import METHODS

Array = np.ndarray
FOLDS = 5
OTHER = "scikit-learn"
SELECTORS = (OTHER, *METHODS)


def xor(n: int = 600, columns: int = 20, seed: int = 0) -> tuple[Array, Array]:
    """Columns [n, columns], of which the signs of two differ or not, and that is y, but for a row in ten."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, columns))
    y = (x[:, 4] > 0) ^ (x[:, 11] > 0)
    return x, np.where(rng.random(n) < 0.1, ~y, y).astype(int)


def data(name: str) -> tuple[Array, Array]:
    """X [n, p] and y [n] of a data set by its name."""
    if name == "planted XOR":
        return xor()
    from sklearn import datasets

    load = {"breast cancer": datasets.load_breast_cancer, "wine": datasets.load_wine, "digits": datasets.load_digits,
            "diabetes": datasets.load_diabetes}  # fmt: skip
    return load[name](return_X_y=True)


# How many columns are kept of each.
SETS = {"breast cancer": (3, 10), "wine": (3, 6), "digits": (10, 20), "diabetes": (3, 6), "planted XOR": (2, 4)}


def _cell(name: str, selector: str, k: int, repeats: int) -> Cell:
    def work() -> dict[str, Any]:
        from sklearn.feature_selection import SelectKBest, mutual_info_classif, mutual_info_regression
        from sklearn.model_selection import RepeatedKFold, RepeatedStratifiedKFold, cross_validate
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC, SVR

        from infomax.sklearn import SelectByInformation

        x, y = data(name)
        numbers = name == "diabetes"

        def score(x: Array, y: Array) -> Array:
            return (mutual_info_regression if numbers else mutual_info_classif)(x, y, random_state=0)

        chosen = SelectKBest(score, k=k) if selector == OTHER else SelectByInformation(k, selector)  # type: ignore[arg-type]
        folds = (RepeatedKFold if numbers else RepeatedStratifiedKFold)(
            n_splits=FOLDS, n_repeats=repeats, random_state=0
        )
        model = SVR(C=100) if numbers else SVC()
        began = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = cross_validate(make_pipeline(chosen, StandardScaler(), model), x, y, cv=folds)
        return {"scores": found["test_score"].tolist(), "seconds": time.process_time() - began}

    key = {"experiment": "select", "task": name, "row": selector, "k": k, "repeats": repeats}
    return Cell(key, cells.at_once(work))


def half_width(scores: Array) -> float:
    """Of the 95 % interval of a mean over repeated folds, whose training rows overlap. (Nadeau & Bengio, 2003)"""
    from scipy.stats import t

    variance = float(np.var(scores, ddof=1)) * (1 / len(scores) + 1 / (FOLDS - 1))
    return float(t.ppf(0.975, len(scores) - 1)) * math.sqrt(variance)


def command(repeats: int = 4, quick: bool = False, output: Path = Path("results/select"), json: bool = False) -> None:
    """What is predicted from k chosen columns: by infomax's mim, mrmr, jmi, cmim, and by scikit-learn's MI.

    Columns are chosen anew in each of five folds, and a support vector machine predicts from them.

    Args:
        repeats: How often the rows are put into five folds.
        quick: Once, of wine and planted XOR alone.
        output: The results folder. What a killed run finished there is not done again.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(repeats=repeats)
    sets = {name: SETS[name] for name in ("wine", "planted XOR")} if quick else SETS
    repeats = 1 if quick else repeats
    planned = [_cell(name, selector, k, repeats) for name, ks in sets.items() for k in ks for selector in SELECTORS]
    results = cells.run(planned, output, not json)
    scores = {(c.key["task"], c.key["k"], c.key["row"]): r for c, r in zip(planned, results, strict=True)}
    lines, differences = [], []
    for name, ks in sets.items():
        for k in ks:
            at: dict[str, Any] = {"data": name, "columns kept": k}
            line, beside = dict(at), dict(at)
            for selector in SELECTORS:
                each = np.array(scores[name, k, selector]["scores"])
                line[selector] = f"{each.mean():.3f} ± {half_width(each):.3f}"
                if selector != OTHER:
                    over = each - np.array(scores[name, k, OTHER]["scores"])
                    beside[selector] = f"{over.mean():+.3f} ± {half_width(over):.3f}"
            lines.append(line)
            differences.append(beside)
    protocol = (
        f"Accuracy (R^2 of diabetes) of a support vector machine with scikit-learn's defaults (C = 100 of diabetes) on"
        f" standardised columns, {FOLDS} folds, {repeats} times; columns are chosen in each training part. ±: half the"
        " 95 % interval, corrected for overlapping training parts. scikit-learn: SelectKBest with mutual_info_classif,"
        " or _regression of diabetes."
    )
    made = {"score": lines, "score less scikit-learn's, fold by fold": differences}
    cells.report(cells.write_tables(output, "select", protocol, made), made, output, json)
