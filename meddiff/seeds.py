"""The streams of random numbers of a sample: each use of its seed has a tag, so that no two draw the same numbers.

A key of numpy is filled up with zeros, (seed, 2) is (seed, 2, 0, 0): so the tag stands next to the seed and is never 0. The noise
of an image's first class of lesion is that of `torch.manual_seed(seed)` itself.
"""

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What random numbers are for; a value that changed would change all samples."""

    BACKGROUND = 1  # the order in which images are painted into
    SHAPE = 2
    POSE = 3
    MASK_NOISE = 4
    CONDITION = 5
    PLACEMENT = 6
    SEAM = 7
    CLASS_NOISE = 8


def numbers(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """A generator of numpy for one use of a seed, and within it for a key of whole numbers from 0."""
    return np.random.default_rng([seed, stream, *key])


def noise(seed: int, stream: Stream, *key: int) -> torch.Generator:
    """The same of torch, whose CPU generator keeps 32 bits of its seed: so many are made of all of these."""
    return torch.Generator().manual_seed(hashed(seed, stream, *key))


def hashed(seed: int, stream: Stream, *key: int) -> int:
    """A seed of 32 bits made of all of these."""
    return int(np.random.SeedSequence([seed, stream, *key]).generate_state(1)[0])
