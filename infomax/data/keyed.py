"""Random numbers that are a hash of (seed, epoch, sample id, view): no state, the same for any batch and process."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass


_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)
BUFFER = 8192  # samples, of one shard and the next, that are shuffled among each other


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


def _mix(word: int) -> int:
    # The output function of splitmix64 (Steele, Lea & Flood, 2014).
    word ^= word >> _SHIFTS[0]
    word = word * _MULTIPLIERS[0] & _MASK
    word ^= word >> _SHIFTS[1]
    word = word * _MULTIPLIERS[1] & _MASK
    return word ^ word >> _SHIFTS[2]


def _mix_tensor(words: Tensor) -> Tensor:
    # The same on int64, in place: products wrap around, and a mask turns the arithmetic shift into a logical one.
    for shift, multiplier in zip(_SHIFTS, (*_MULTIPLIERS, None), strict=True):
        words.bitwise_xor_((words >> shift).bitwise_and_((1 << (64 - shift)) - 1))
        if multiplier is not None:
            words.mul_(_signed(multiplier))
    return words


def _key(*numbers: int) -> int:
    key = 0
    for number in numbers:
        key = _mix((key + _GOLDEN + (number & _MASK)) & _MASK)
    return key


def _words(ids: Tensor, count: int, key: int) -> Tensor:
    # ids [b] -> hashed 64-bit words [count, b]. Sample by sample in a row, so that every row is contiguous however long
    # the batch is: vectorised and scalar versions of exp or cos may differ in the last bit.
    mixed = _mix_tensor(ids.to(torch.int64) * _signed(_GOLDEN) + _signed(key))
    draws = torch.arange(1, count + 1, device=ids.device) * _signed(_GOLDEN)
    return _mix_tensor(mixed[None, :] + draws[:, None])


def uniforms(ids: Tensor, count: int, *key: int) -> Tensor:
    """`count` numbers in [0, 1) for each id, a hash of (key, id): ids int64 [b] -> float32 [count, b]."""
    return (_words(ids, count, _key(*key)) >> 40).bitwise_and_(0xFFFFFF).to(torch.float32).mul_(2.0**-24)


def permutation(n: int, *key: int) -> Tensor:
    """A permutation of 0 .. n-1, int64 [n] on the CPU, that depends on (n, key) alone."""
    # Sorting hashes rather than torch.randperm: the same on every version, and no generator is touched.
    return torch.argsort(_words(torch.arange(n), 1, _key(*key))[0], stable=True)


def shard_by_shard(shards: Tensor, *key: int) -> Tensor:
    """An order of samples that goes through the shards one by one: shards int64 [n] -> int64 [n], by (shards, key).

    Shards come in a permuted order. Of the samples in that order, as they lie in their shards, each BUFFER in a row are
    permuted, so that neighbours do not stay together and a shard is read once.
    """
    numbers, place = torch.unique(shards, return_inverse=True)
    turn = torch.empty(len(numbers), dtype=torch.int64)
    turn[permutation(len(numbers), *key, 1)] = torch.arange(len(numbers))
    stream = torch.argsort(turn[place], stable=True)
    mixed = permutation(len(stream), *key)
    return stream[mixed[torch.argsort(mixed // BUFFER, stable=True)]]
