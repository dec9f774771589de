"""How the scores of pairs and of non-pairs are spread: what a report page draws."""

from typing import Any

import numpy as np
import torch

from infomax.estimation.pairs import Pairs

MOST = 500  # pairs, so a quarter of a million negatives at most
BINS = 40
ROWS = 64  # scored at a time, as a joint critic holds all pairs of two blocks


@torch.no_grad()
def histogram(critic: Any, report: Pairs) -> dict[str, Any] | None:
    """{"edges" [41], "positive" [40], "negative" [40], "pairs"}: shares of scores, in nats, by bins; None where scores
    are not finite. The ends hold what lies beyond them: a thousandth of the negatives."""
    pairs = report.first(MOST)
    ex, ey = critic.embed(pairs.x, pairs.y)
    blocks = [critic.score(part, ey).double().cpu().numpy() for part in ex.split(ROWS)]
    scores, ids = np.concatenate(blocks), pairs.ids.cpu().numpy()
    positive, negative = scores.diagonal(), scores[ids[:, None] != ids]
    if not (np.isfinite(positive).all() and np.isfinite(negative).all()):
        return None
    low, high = min(positive.min(), np.quantile(negative, 0.001)), max(positive.max(), np.quantile(negative, 0.999))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    shares = [np.histogram(side.clip(edges[0], edges[-1]), edges)[0] / len(side) for side in (positive, negative)]
    return {
        "edges": edges.round(4).tolist(),
        "positive": shares[0].round(6).tolist(),
        "negative": shares[1].round(6).tolist(),
        "pairs": len(pairs),
    }
