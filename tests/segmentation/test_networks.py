"""Networks have the shapes that they should, and learn."""

import numpy as np
import pytest
import torch

from meddiff.params import SegmentParams
from meddiff.segmentation.networks import WIDTHS, Architecture, deep_features
from meddiff.segmentation.segmenter import train_segmenter


@pytest.mark.parametrize(("network", "side", "steps"), [
    ("attention_unet", 32, 16), ("swin_unetr", 64, 12), ("encoder_unet", 64, 12)])
def test_a_network_learns_dark_ellipses(cases, network, side, steps):
    params = SegmentParams(network=network, steps=steps, batch_size=4)
    segmenter = train_segmenter(cases(8, side), [], params, seed=0)
    assert np.mean(segmenter.losses[-3:]) < 0.9 * np.mean(segmenter.losses[:3])
    unseen = cases(4, side, seed=2)
    probability = segmenter.predict(np.stack([case.image for case in unseen]))
    lesions = np.stack([case.mask for case in unseen]) > 0
    assert probability[lesions].mean() > probability[~lesions].mean() + 0.1


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("network", sorted(WIDTHS))
def test_a_network_has_one_logit_or_one_for_each_class_and_the_background(network, classes):
    architecture = Architecture(network, WIDTHS[network], classes)
    built = architecture.build().eval()
    with torch.no_grad():
        assert built(torch.zeros(2, 3, 64, 96)).shape == (2, 1 if classes == 1 else 4, 64, 96)
    assert all(not architecture.unfit(side, 96) for side in (64, 128))
    with pytest.raises(ValueError, match="no network vnet"):
        Architecture("vnet", 8).build()


@pytest.mark.parametrize("network", ["unet", "segresnet"])
def test_features_have_an_eighth_of_the_resolution(network):
    with torch.no_grad():
        assert deep_features(Architecture(network, WIDTHS[network]).build(), torch.zeros(2, 3, 64, 32)).shape == (2, 64, 8, 4)
