"""Pixels of boolean masks, counted 64 at a time: a machine word holds one bit of each.

Metrics of masks count little else, and on the bits it takes a fraction of a matrix product's
time: lesson 01 ends with how, and with the measurement.
"""

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt64
from torch import Tensor

AT_ONCE = 2**16
"""Words that are combined in one step: few enough for a processor's cache."""


def pixel_counts(
    a: Bool[Tensor, "n h w"], b: Bool[Tensor, "m h w"]
) -> tuple[Int[Tensor, "n m"], Int[Tensor, "n"], Int[Tensor, "m"]]:
    """How many pixels each mask of `a` shares with each of `b`, each of a has, each of b has.

    The three are on the CPU, wherever the masks are.
    """
    rows, others = packed(a), packed(b)
    shared = np.zeros((len(a), len(b)), dtype=np.int64)
    step = max(1, AT_ONCE // max(1, others.size))
    for k in range(0, len(rows), step):
        some = rows[k : k + step]
        (there,) = some.any(axis=0).nonzero()  # the words in which they have a pixel at all
        span = slice(there[0], there[-1] + 1) if len(there) else slice(0)
        shared[k : k + step] = count_bits(some[:, None, span] & others[:, span])
    return tuple(map(torch.from_numpy, (shared, count_bits(rows), count_bits(others))))


def packed(masks: Bool[Tensor, "n h w"]) -> UInt64[np.ndarray, "n words"]:
    """Each mask as a row of 64-bit words, a bit a pixel, the last word filled up with zeros."""
    pixels = masks.flatten(1).cpu().numpy()
    missing = -pixels.shape[1] % 64
    if missing:
        pixels = np.pad(pixels, ((0, 0), (0, missing)))
    return np.packbits(pixels, axis=1).view(np.uint64)


def count_bits(words: UInt64[np.ndarray, "*n words"]) -> Int[np.ndarray, "*n"]:
    """How many bits of each row are set."""
    return np.bitwise_count(words).sum(axis=-1, dtype=np.int64)
