#!/usr/bin/env bash
# albumentations: with a DataLoader's workers all epochs see the same crops, and each worker those of the others.
#
# Expected: random augmentations are drawn anew for each image and epoch, with workers as without; torch seeds its
#   workers differently for that reason, in each epoch. np.random.seed, random.seed and torch.manual_seed fix the draws.
# Happens: Compose has generators of its own, made when it is built, which global seeds do not reach. A worker that is
#   forked gets a copy in the state that the main process has, and the main process never draws. So of two workers the
#   second repeats the crops of the first, and the next epoch repeats the whole; with persistent_workers=True the
#   epochs differ and the workers do not. Without workers all is as expected. It is so with and without seed=.
# Version: albumentations 2.0.8 with torch 2.15.0 on Linux, where workers are forked.
# Why it matters: contrastive training lives on new views. The k-th image of each epoch gets the same crops as the k-th
#   of all others; without shuffling, each image has the same two views for ever. The loss says nothing of it. What
#   helps: in worker_init_fn, call the transform's set_random_seed with torch.initial_seed().
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(albumentations==2.0.8 torch==2.15.0 numpy==2.4.6)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" - <<'PYTHON'
import multiprocessing
import random
import sys

import albumentations as A
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


class Corners(Dataset):
    """The corner of a random crop of one image, all of whose pixels differ, for each of eight indices."""

    def __init__(self, seed=None):
        self.transform = A.Compose([A.RandomCrop(4, 4)], seed=seed)
        self.image = np.arange(40_000, dtype=np.float32).reshape(200, 200)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return int(self.transform(image=self.image)["image"][0, 0])


def reseed(worker):
    get_worker_info().dataset.transform.set_random_seed(torch.initial_seed() % 2**32)


def two_epochs(seed=None, **loader):
    for seeding in (random.seed, np.random.seed, torch.manual_seed):
        seeding(0)
    batches = DataLoader(Corners(seed), batch_size=2, **loader)
    return [[corner for batch in batches for corner in batch.tolist()] for _ in range(2)]


forked = {"num_workers": 2, "multiprocessing_context": multiprocessing.get_context("fork")}
for seed in (None, 1):
    first, second = two_epochs(seed, **forked)
    repeated = first[:2] == first[2:4] and first[4:6] == first[6:]
    check(repeated, f"seed={seed}, two workers: the crops of the first epoch have their corners at {first}")
    check(second == first, f"those of the second at {second}")
first, second = two_epochs(num_workers=0)
check(len({*first, *second}) > 12, f"without workers {len({*first, *second})} of 16 crops differ")
check(two_epochs(num_workers=0) != [first, second], "and other ones are drawn with the same three global seeds")
first, second = two_epochs(**forked, persistent_workers=True)
check(first != second, "persistent workers: the epochs differ")
check(first[:2] == first[2:4] and second[:2] == second[2:4], "and the workers do not")
first, second = two_epochs(**forked, worker_init_fn=reseed)
check(len({*first, *second}) > 12, f"with worker_init_fn {len({*first, *second})} of 16 crops differ")
PYTHON
