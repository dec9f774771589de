"""Plain dense forms of every objective, [n, n] matrices and autograd: what the engine is held against.

`matrix` holds the scores, `negative` says which entries are negatives; positives are on the diagonal.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def positives(matrix: Tensor) -> Tensor:
    return matrix.diagonal()


def masked_lse(matrix: Tensor, negative: Tensor, dim=None) -> Tensor:
    masked = matrix.masked_fill(~negative, -math.inf)
    return masked.flatten().logsumexp(0) if dim is None else masked.logsumexp(dim)


def log_partition(matrix: Tensor, negative: Tensor) -> Tensor:
    return masked_lse(matrix, negative) - math.log(int(negative.sum()))


def jensen_shannon(matrix: Tensor, negative: Tensor) -> Tensor:
    return -F.softplus(-positives(matrix)).mean() - F.softplus(matrix)[negative].mean()


def dv(matrix, negative):
    return positives(matrix).mean() - log_partition(matrix, negative)


def nwj(matrix, negative):
    return 1 + positives(matrix).mean() - matrix[negative].exp().mean()


def infonce(matrix, negative):
    kept = negative | torch.eye(len(matrix), dtype=torch.bool)
    return (positives(matrix) - masked_lse(matrix, kept, 1) + kept.sum(1).double().log()).mean()


def infonce_symmetric(matrix, negative):
    return (infonce(matrix, negative) + infonce(matrix.T, negative.T)) / 2


def smile(matrix, negative, tau=5.0):
    return positives(matrix).mean() - log_partition(matrix.clamp(-tau, tau), negative)


def tuba(matrix, negative):  # baseline 0
    rows = (matrix.exp() * negative).sum(1) / negative.sum(1)
    return 1 + positives(matrix).mean() - rows.mean()


def plug_in(matrix, negative):
    return positives(matrix).mean()


def siglip(matrix, negative):
    k = int(negative.sum()) / len(matrix)
    positive = F.logsigmoid(positives(matrix) - math.log(k)).sum()
    return (positive + F.logsigmoid(-(matrix - math.log(k)))[negative].sum()) / len(matrix)


def anchor(matrix, negative, nu=1.0):
    n, total = len(matrix), 0.0
    for i in range(n):
        # Left out of k - 1 is the first with the next greater id; equal rows of `negative` have equal ids.
        ids = [int((~negative[j]).nonzero()[0]) for j in range(n)]
        after = sorted((j for j in range(n) if negative[i, j]), key=lambda j: ((ids[j] <= ids[i]), ids[j], j))
        row = [matrix[i, j] for j in after]
        k = len(row)
        one = matrix[i, i] - torch.log(nu + matrix[i, i].exp() + torch.stack(row[1:]).exp().sum())
        none = math.log(nu) - torch.log(nu + torch.stack(row).exp().sum())
        total = total + one + nu / k * none
    return total / n


def mine_gradient_form(matrix, negative):  # the first batch: the average is the batch's own partition
    partition = log_partition(matrix, negative)
    return positives(matrix).mean() - (partition - partition.detach()).exp()


def calibrated_gradient_form(matrix, negative):  # the first batch: the constant is the batch's own partition
    return positives(matrix).mean() - log_partition(matrix, negative)


# text of the objective -> (dense value, dense surrogate)
FORMS = {
    "InfoNCE()": (infonce, infonce),
    "InfoNCE(symmetric=True)": (infonce_symmetric, infonce_symmetric),
    "NWJ()": (nwj, nwj),
    "CalibratedNWJ()": (dv, calibrated_gradient_form),
    "DV()": (dv, dv),
    "MINE()": (dv, mine_gradient_form),
    "SMILE(tau=1.0)": (lambda m, k: smile(m, k, 1.0), jensen_shannon),
    "SMILE()": (smile, jensen_shannon),
    "SMILE(tau=inf)": (dv, jensen_shannon),
    "JS()": (nwj, jensen_shannon),
    "JSPlugin()": (plug_in, jensen_shannon),
    "TUBA()": (tuba, tuba),
    "SigLIP()": (plug_in, siglip),
    "Anchor()": (plug_in, anchor),
    "Anchor(nu=3.0)": (plug_in, lambda m, k: anchor(m, k, 3.0)),
}
