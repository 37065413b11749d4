"""Each use of a seed draws numbers of its own."""

import numpy as np
import torch

from meddiff.seeds import Stream, hashed, noise, numbers


def test_no_two_streams_of_a_seed_are_the_same() -> None:
    assert min(Stream) > 0, "numpy fills a key up with zeros"
    keys = [(), (1,), (0, 1), (1, 0, 1)]
    drawn = {(stream, key): tuple(numbers(3, stream, *key).integers(2**62, size=4)) for stream in Stream for key in keys}
    assert len(set(drawn.values())) == len(Stream) * len(keys)
    others = {tuple(numbers(seed, stream).integers(2**62, size=4)) for seed in (0, 1, 2, 4, 5) for stream in Stream}
    assert not others & set(drawn.values())


def test_noise_of_torch_differs_by_seed_stream_and_key() -> None:
    keys = [(seed, stream, label) for seed in (0, 1, 2**31 - 1) for stream in Stream for label in (1, 2, 3)]
    drawn = {tuple(torch.randn(4, generator=noise(*key)).tolist()) for key in keys}
    assert len(drawn) == len(keys)
    assert all(0 <= hashed(*key) < 2**32 for key in keys)
    assert np.array_equal(torch.randn(4, generator=noise(*keys[0])), torch.randn(4, generator=noise(*keys[0])))
