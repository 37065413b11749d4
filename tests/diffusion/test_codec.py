import pytest
import torch

from meddiff.diffusion.codec import PatchCodec


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_decode_is_the_inverse_of_encode(patch: int) -> None:
    images = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codec = PatchCodec.fitted(images, patch)
    latents = codec.encode(images).latents
    assert latents.shape == (3, 3 * patch**2, 32 // patch, 48 // patch)
    torch.testing.assert_close(codec.decode(latents).sample, images, atol=1e-5, rtol=0)


def test_latents_are_standardised_over_the_training_images() -> None:
    images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = PatchCodec.fitted(images, 4).encode(images).latents
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(48), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(48), atol=1e-3, rtol=0)


def test_saved_and_loaded_codec_is_equal(tmp_path) -> None:
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    codec = PatchCodec.fitted(images, 4)
    codec.save_pretrained(tmp_path)
    again = PatchCodec.from_pretrained(tmp_path)
    assert torch.equal(again.encode(images).latents, codec.encode(images).latents)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()
