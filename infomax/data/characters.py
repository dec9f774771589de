"""Texts as tokens, a character each: the vocabulary that ships, of names:emoji and of captions."""

import torch
from torch import Tensor

CHARACTERS = " abcdefghijklmnopqrstuvwxyz0123456789-'"  # character k is token k + 1; 0 is what follows a text
VOCABULARY = len(CHARACTERS) + 2  # with 0 and one token for all others


def tokens(text: str, length: int) -> Tensor:
    """A text's characters as numbers, int64 [length]: those of CHARACTERS from 1, in either case, others the last of
    the vocabulary, 0 after its end. What is longer is cut."""
    numbers = [CHARACTERS.find(character) + 1 or VOCABULARY - 1 for character in text.lower()[:length]]
    return torch.tensor(numbers + [0] * (length - len(numbers)), dtype=torch.int64)
