"""Plain dense forms of every objective, matrices and autograd: what the engine is held against.

`matrix` [n, m] holds the scores, `negative` [n, m] says which entries are negatives; positives are on the diagonal, or
in the columns `positive` [n]. `names`: the ids of columns less those of a queue, at the end, which have none.
"""

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F


def positives(matrix: Tensor, positive=None) -> Tensor:
    return matrix.diagonal() if positive is None else matrix[torch.arange(len(matrix)), positive]


def masked_lse(matrix: Tensor, negative: Tensor, dim=None) -> Tensor:
    masked = matrix.masked_fill(~negative, -math.inf)
    return masked.flatten().logsumexp(0) if dim is None else masked.logsumexp(dim)


def log_partition(matrix: Tensor, negative: Tensor) -> Tensor:
    return masked_lse(matrix, negative) - math.log(int(negative.sum()))


def jensen_shannon(matrix: Tensor, negative: Tensor, positive=None, names=None) -> Tensor:
    return -F.softplus(-positives(matrix, positive)).mean() - F.softplus(matrix)[negative].mean()


def dv(matrix, negative, positive=None, names=None):
    return positives(matrix, positive).mean() - log_partition(matrix, negative)


def nwj(matrix, negative, positive=None, names=None):
    return 1 + positives(matrix, positive).mean() - matrix[negative].exp().mean()


def infonce(matrix, negative, positive=None, names=None):
    own = torch.arange(len(matrix)) if positive is None else positive
    kept = negative.clone()
    kept[torch.arange(len(matrix)), own] = True
    return (positives(matrix, positive) - masked_lse(matrix, kept, 1) + kept.sum(1).double().log()).mean()


def infonce_symmetric(matrix, negative, positive=None, names=None):
    rows = infonce(matrix, negative, positive)
    if positive is None:
        return (rows + infonce(matrix.T, negative.T)) / 2
    columns = []
    for i, j in enumerate(positive.tolist()):  # the column of row i's positive: that, and its negatives
        candidates = torch.cat([matrix[i, j][None], matrix[negative[:, j], j]])
        columns.append(matrix[i, j] - candidates.logsumexp(0) + math.log(len(candidates)))
    return (rows + torch.stack(columns).mean()) / 2


def smile(matrix, negative, positive=None, names=None, tau=5.0):
    return positives(matrix, positive).mean() - log_partition(matrix.clamp(-tau, tau), negative)


def tuba(matrix, negative, positive=None, names=None):  # baseline 0
    rows = (matrix.exp() * negative).sum(1) / negative.sum(1)
    return 1 + positives(matrix, positive).mean() - rows.mean()


def plug_in(matrix, negative, positive=None, names=None):
    return positives(matrix, positive).mean()


def siglip(matrix, negative, positive=None, names=None):
    k = int(negative.sum()) / len(matrix)
    of_positives = F.logsigmoid(positives(matrix, positive) - math.log(k)).sum()
    return (of_positives + F.logsigmoid(-(matrix - math.log(k)))[negative].sum()) / len(matrix)


def anchor(matrix, negative, positive=None, names=None, nu=1.0):
    n, total = len(matrix), 0.0
    own = list(range(n)) if positive is None else positive.tolist()
    # Without names, equal rows of `negative` have equal ids.
    ids = [int((~negative[j]).nonzero()[0]) for j in range(n)] if names is None else names.tolist()
    for i in range(n):
        # Left out of k - 1 is the first with the next greater id, and a queue's only where there is no other.
        name, queue = ids[own[i]], matrix.shape[1] - len(ids)
        others = [j for j in range(len(ids)) if negative[i, j]]
        after = sorted(others, key=lambda j: ((ids[j] <= name), ids[j], j))
        after += [j for j in range(len(ids), len(ids) + queue) if negative[i, j]]
        row = [matrix[i, j] for j in after]
        k = len(row)
        here = matrix[i, own[i]]
        one = here - torch.log(nu + here.exp() + torch.stack(row[1:]).exp().sum())
        none = math.log(nu) - torch.log(nu + torch.stack(row).exp().sum())
        total = total + one + nu / k * none
    return total / n


def mine_gradient_form(matrix, negative, positive=None, names=None):
    partition = log_partition(matrix, negative)  # the first batch: the average is the batch's own partition
    return positives(matrix, positive).mean() - (partition - partition.detach()).exp()


def calibrated_gradient_form(matrix, negative, positive=None, names=None):
    # The first batch: the constant is the batch's own partition.
    return positives(matrix, positive).mean() - log_partition(matrix, negative)


# text of the objective -> (dense value, dense surrogate)
FORMS = {
    "InfoNCE()": (infonce, infonce),
    "InfoNCE(symmetric=True)": (infonce_symmetric, infonce_symmetric),
    "NWJ()": (nwj, nwj),
    "CalibratedNWJ()": (dv, calibrated_gradient_form),
    "DV()": (dv, dv),
    "MINE()": (dv, mine_gradient_form),
    "SMILE(tau=1.0)": (partial(smile, tau=1.0), jensen_shannon),
    "SMILE()": (smile, jensen_shannon),
    "SMILE(tau=inf)": (dv, jensen_shannon),
    "JS()": (nwj, jensen_shannon),
    "JSPlugin()": (plug_in, jensen_shannon),
    "TUBA()": (tuba, tuba),
    "SigLIP()": (plug_in, siglip),
    "Anchor()": (plug_in, anchor),
    "Anchor(nu=3.0)": (plug_in, partial(anchor, nu=3.0)),
}
