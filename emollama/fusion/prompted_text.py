"""The text branch: a LLaMA reads the words (and what was noticed about them), and its hidden state is the vector.

The MER2024-SEMI winner wrote prompts for Baichuan with GPT-4, so that it would extract emotion better (arXiv
2409.07078); how the two are wired is not published. Here the words and the cues (`emollama.fusion.cues`) go into one
prompt that ends where the emotion would be named, and the vector is either the last token's state there ("last"), or
MERBench's "mean": the sum of the last four layers, averaged over the tokens of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import nn

from emollama.errors import CheckpointError, InputError

Pooling = Literal["last", "mean"]
Prompter = Callable[[str, str | None], list[int]]
TEMPLATE = 'Somebody says: "{words}"\n{cues}In one word, the emotion in what they say is'
CUES_LINE = "What can be noticed in it: {cues}\n"
_LAYERS = 4
MAX_TOKENS = 512


class PromptedText:
    """Vectors of words by a causal model in the shape of transformers' ``LlamaForCausalLM``."""

    def __init__(self, model: nn.Module, prompter: Prompter, *, pooling: Pooling = "last") -> None:
        if pooling not in get_args(Pooling):
            raise InputError(f"pooling is {pooling!r}; allowed: {', '.join(get_args(Pooling))}", field="pooling")
        self.model, self.prompter, self.pooling = model.eval().requires_grad_(False), prompter, pooling

    @classmethod
    def load(cls, folder: Path, *, pooling: Pooling = "last", dtype: torch.dtype = torch.float32) -> PromptedText:
        """Read a LLaMA folder (``config.json``, safetensors, ``tokenizer.json``); every key must fit."""
        from tokenizers import Tokenizer

        from emollama.backbones.llama import load_llama
        from emollama.config import LlamaShape

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} holds no tokenizer.json", field="backbone")
        tokenizer, begin = Tokenizer.from_file(str(path)), LlamaShape.load(folder).bos_token_id

        def prompter(words: str, cues: str | None) -> list[int]:
            said = "" if cues is None else CUES_LINE.format(cues=cues)
            return [begin, *tokenizer.encode(TEMPLATE.format(words=words, cues=said), add_special_tokens=False).ids]

        return cls(load_llama(folder, dtype=dtype), prompter, pooling=pooling)

    @classmethod
    def load_nano(cls, folder: Path, *, pooling: Pooling = "last") -> PromptedText:
        """Read the backbone and tokenizer of nano's folder; its own prompt, up to where the label comes."""
        from emollama.backbones.llama import load_llama
        from emollama.prompt import Renderer

        renderer = Renderer.load(folder / "tokenizer.json")

        def prompter(words: str, cues: str | None) -> list[int]:
            return renderer.prefix(transcript=words if cues is None else f"{words} ({cues})")

        return cls(load_llama(folder / "backbone"), prompter, pooling=pooling)

    @torch.inference_mode()
    def vector(self, words: str, *, cues: str | None = None) -> np.ndarray | None:
        """Return the vector [W] float32 of a transcript, or ``None`` where there are no words."""
        said = " ".join(words.split())
        if not said:
            return None
        ids = self.prompter(said, cues)
        if len(ids) > MAX_TOKENS:  # the beginning and the end, where the question stands
            ids = ids[: MAX_TOKENS // 2] + ids[-MAX_TOKENS // 2 :]
        device = next(self.model.parameters()).device
        backbone = cast(Any, self.model).model
        output = backbone(
            input_ids=torch.tensor([ids], device=device), use_cache=False, output_hidden_states=self.pooling == "mean"
        )
        if self.pooling == "last":
            state = output.last_hidden_state[0, -1]
        else:
            state = torch.stack([layer[0] for layer in output.hidden_states[-_LAYERS:]]).sum(0).mean(0)
        vector: np.ndarray = state.float().cpu().numpy()
        return vector
