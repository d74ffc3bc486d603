"""What can be noticed in somebody's words, in a sentence or two: written by a language model, kept on disk by content.

A cue names what in the wording carries emotion (words, stress, what is left out) without naming a label, and goes into
the prompt of `emollama.fusion.prompted_text`. Any OpenAI-compatible endpoint can write them, or a local LLaMA. Whoever
writes, an answer is kept by the hash of all that was asked, so that the same words are asked about once. An answer that
is empty, or longer than a cue can be, is an error: it is never cut, and never replaced by something made up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn

from emollama.endpoint import AnswerCache, ChatEndpoint, Prompt
from emollama.errors import CheckpointError, EmoLlamaError

MAX_CHARACTERS = 400
SYSTEM = (
    "You help to read emotion in what people say. In one or two short sentences, point out what in the wording "
    "carries emotion: telling words, intensity, irony, what is avoided. Quote at most five words. Do not name an "
    "emotion label, do not give advice, do not add anything that is not in the words. If nothing stands out, say that "
    "the wording is plain."
)
USER = "The words: {words}"
_WORDING = hashlib.sha256(f"{SYSTEM}\n{USER}".encode()).hexdigest()


class CueError(EmoLlamaError):
    """What came back is no cue."""


class CueWriter(Protocol):
    """Writes the cue of a transcript; the same words give the same cue, from the disk when they were asked before."""

    def write(self, words: str) -> str: ...


class EndpointCues:
    """Cues by a chat endpoint, which has a cache of its own."""

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self.endpoint = endpoint

    def write(self, words: str) -> str:
        """Return the cue; raises `EndpointError` where there is no answer and `CueError` where it is no cue."""
        messages = (
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": USER.format(words=" ".join(words.split()))},
        )
        return read_cue(self.endpoint.complete(Prompt(messages=messages, sha256=_WORDING), seed=0).text)


class LocalCues:
    """Cues by a causal model in the shape of transformers', decoded greedily; cached by model, wording and words."""

    def __init__(
        self,
        model: nn.Module,
        *,
        encode: Callable[[str], list[int]],
        decode: Callable[[list[int]], str],
        stop_ids: Iterable[int],
        name: str,
        cache: AnswerCache,
        max_tokens: int = 80,
    ) -> None:
        self.model, self.encode, self.decode = model.eval().requires_grad_(False), encode, decode
        self.stop_ids, self.name, self.cache, self.max_tokens = frozenset(stop_ids), name, cache, max_tokens

    @classmethod
    def load(cls, folder: Path, *, cache: AnswerCache, max_tokens: int = 80) -> LocalCues:
        """Read a LLaMA folder with its tokenizer; it is named by the hash of its weights."""
        from tokenizers import Tokenizer

        from emollama.backbones.llama import load_llama
        from emollama.config import LlamaShape

        if not (folder / "tokenizer.json").is_file():
            raise CheckpointError(f"{folder} holds no tokenizer.json", field="backbone")
        tokenizer, shape = Tokenizer.from_file(str(folder / "tokenizer.json")), LlamaShape.load(folder)
        digest = hashlib.sha256()
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return cls(
            load_llama(folder),
            encode=lambda text: [shape.bos_token_id, *tokenizer.encode(text, add_special_tokens=False).ids],
            decode=lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
            stop_ids=shape.eos_token_ids,
            name=digest.hexdigest(),
            cache=cache,
            max_tokens=max_tokens,
        )

    def write(self, words: str) -> str:
        """Return the cue; raises `CueError` where what was written is none."""
        said = " ".join(words.split())
        body = {"wording": _WORDING, "words": said, "max_tokens": self.max_tokens}
        address = hashlib.sha256(f"{self.name}\n{_WORDING}\n{self.max_tokens}\n{said}".encode()).hexdigest()
        stored = self.cache.get(address)
        if stored is None:
            text = self._decode_greedily(f"{SYSTEM}\n{USER.format(words=said)}\nWhat stands out:")
            read_cue(text)
            stored = {"text": text}
            self.cache.put(address, url=f"local:{self.name}", body=body, answer=stored)
        return read_cue(stored["text"])

    @torch.inference_mode()
    def _decode_greedily(self, prompt: str) -> str:
        device = next(self.model.parameters()).device
        ids, written, past = self.encode(prompt), [], None
        step = torch.tensor([ids], device=device)
        for _ in range(self.max_tokens):
            output = cast(Any, self.model)(input_ids=step, past_key_values=past, use_cache=True)
            past, token = output.past_key_values, int(output.logits[0, -1].argmax())
            if token in self.stop_ids:
                break
            written.append(token)
            step = torch.tensor([[token]], device=device)
        return self.decode(written)


def read_cue(text: str) -> str:
    """Return a model's answer as one line; raises `CueError` for an empty one or one that is no short remark."""
    cue = " ".join(text.split())
    if not cue or len(cue) > MAX_CHARACTERS:
        raise CueError(f"the cue has {len(cue)} characters; allowed: 1 to {MAX_CHARACTERS}", field="cue")
    return cue


def write_all(writer: CueWriter, transcripts: Iterable[str], *, workers: int = 4) -> list[str | None]:
    """Return the cue of each transcript in order, ``None`` for one without words; the same words are asked once."""
    plain = [" ".join(words.split()) for words in transcripts]
    once = [words for words in dict.fromkeys(plain) if words]
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="cues") as pool:
        cues = dict(zip(once, pool.map(writer.write, once), strict=True))
    return [cues.get(words) for words in plain]
