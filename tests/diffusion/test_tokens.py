from pathlib import Path

import pytest
import torch

from meddiff.diffusion.foundation import load_foundation
from meddiff.diffusion.inpainting import embed_prompts, text_embeddings
from meddiff.diffusion.tokens import LearnedToken
from meddiff.errors import MeddiffError
from tests.pipelines import stable_diffusion, stable_diffusion_xl


def test_begins_as_the_mean_of_the_words_pieces() -> None:
    pipeline = stable_diffusion()
    table = pipeline.text_encoder.get_input_embeddings().weight.clone()
    pieces = pipeline.tokenizer("hta", add_special_tokens=False).input_ids
    token = LearnedToken(pipeline, "hta", 1.0)
    assert token.id == len(table)
    assert torch.allclose(token.embedding, table[pieces].mean(dim=0))


def test_only_prompts_with_the_token_follow_its_offset() -> None:
    pipeline = stable_diffusion()
    prompts = ["a photo of hta", "a photo of <hta>"]
    plain = embed_prompts(pipeline, prompts)
    token = LearnedToken(pipeline, "hta", rate=2.0)
    with torch.no_grad():
        token.offset += torch.linspace(-0.1, 0.1, len(token.offset))
    moved = embed_prompts(pipeline, prompts)
    assert torch.equal(moved[0], plain[0])
    assert not torch.allclose(moved[1], plain[1])
    text_embeddings(pipeline, prompts)[1].sum().backward()
    assert token.offset.grad is not None
    token.store()
    assert torch.equal(embed_prompts(pipeline, prompts), moved)
    assert torch.allclose(token.embedding - token.start, 2 * torch.linspace(-0.1, 0.1, len(token.offset)))


def test_saved_and_loaded_the_token_means_the_same(tmp_path: Path) -> None:
    pipeline = stable_diffusion()
    token = LearnedToken(pipeline, "hta", 1.0)
    with torch.no_grad():
        token.offset += 0.3
    token.store()
    pipeline.save_pretrained(tmp_path)
    again = load_foundation(str(tmp_path))
    assert again.tokenizer.convert_tokens_to_ids("<hta>") == token.id
    assert len(again.tokenizer("<hta>", add_special_tokens=False).input_ids) == 1
    assert torch.equal(embed_prompts(again, ["of <hta> nodule"]), embed_prompts(pipeline, ["of <hta> nodule"]))
    known = LearnedToken(again, "hta", 1.0)
    assert known.id == token.id
    assert torch.equal(known.start, token.embedding)


def test_two_text_encoders_are_refused() -> None:
    with pytest.raises(MeddiffError, match=r"finetune\.token"):
        LearnedToken(stable_diffusion_xl(), "hta", 1.0)
