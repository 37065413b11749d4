"""A word of the prompt with an embedding of its own, which fine-tuning learns (textual inversion: Gal et al., 2022)."""

import torch
from diffusers import StableDiffusionInpaintPipeline
from torch import Tensor, nn
from transformers import AddedToken

from meddiff.errors import MeddiffError


def own_token(word: str) -> str:
    """How the word is written in prompts once it is a token: in brackets, so that no word of the vocabulary is meant."""
    return f"<{word}>"


class LearnedToken:
    """A new token in the pipeline's tokenizer and text encoder; nothing else of them changes.

    It begins as the mean embedding of the pieces that the tokenizer cut the word into, so that the prompt first means nearly
    what it meant, or as what it is if the pipeline knows it already. Its embedding is start + rate * offset: Adam moves the
    offset at the pace of all other weights, and `rate` gives the embedding a pace of its own (ours). Until `store` a hook puts
    it into prompts.

    Attributes:
        offset: `[width]`, the one thing to train.

    Raises:
        MeddiffError: the pipeline has two text encoders.
    """

    def __init__(self, pipeline: StableDiffusionInpaintPipeline, word: str, rate: float) -> None:
        if getattr(pipeline, "text_encoder_2", None) is not None:
            raise MeddiffError(
                "finetune.token", "a token is learned for pipelines of one text encoder, this one has two", "Set mode `lora`"
            )
        tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
        pieces = tokenizer(word, add_special_tokens=False).input_ids
        added = tokenizer.add_tokens(AddedToken(own_token(word), normalized=False))
        self.id: int = tokenizer.convert_tokens_to_ids(own_token(word))
        if encoder.get_input_embeddings().num_embeddings < len(tokenizer):
            encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        self.table: nn.Embedding = encoder.get_input_embeddings().requires_grad_(False)
        self.start = self.table.weight[pieces].mean(dim=0) if added else self.table.weight[self.id].clone()
        self.offset, self.rate = nn.Parameter(torch.zeros_like(self.start)), rate
        self.hook = self.table.register_forward_hook(self._put)

    @property
    def embedding(self) -> Tensor:
        """`[width]`, with its graph."""
        return self.start + self.rate * self.offset

    def _put(self, table: nn.Module, inputs: tuple[Tensor], found: Tensor) -> Tensor:
        return torch.where((inputs[0] == self.id)[..., None], self.embedding, found)

    def store(self) -> None:
        """Write the embedding into its row of the text encoder, where saving finds it."""
        self.hook.remove()
        with torch.no_grad():
            self.table.weight[self.id] = self.embedding
