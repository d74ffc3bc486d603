import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emollama.backbones.llama import build_llama, save_llama
from emollama.config import LlamaShape
from emollama.endpoint import AnswerCache, ChatEndpoint, EndpointOptions
from emollama.errors import CheckpointError, InputError
from emollama.fusion.cues import SYSTEM, CueError, EndpointCues, LocalCues, write_all
from emollama.fusion.nano_vectors import NANO
from emollama.fusion.prompted_text import PromptedText

SHAPE = LlamaShape(
    vocab_size=300, hidden_size=16, intermediate_size=24, num_layers=5, num_heads=2, num_kv_heads=1, bos_token_id=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaMA of random weights whose tokens are bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    path = tmp_path_factory.mktemp("llama")
    save_llama(build_llama(SHAPE, seed=3), path, shape=SHAPE, dtype=torch.float32)
    vocabulary = {chr(256 + n): n for n in range(4)} | {
        letter: 4 + n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def test_the_vector_is_the_state_of_the_published_pooling(folder: Path) -> None:
    mean, last = PromptedText.load(folder, pooling="mean"), PromptedText.load(folder)
    ids = torch.tensor([mean.prompter("I am fine", "short")])
    with torch.no_grad():
        states = mean.model.model(input_ids=ids, output_hidden_states=True).hidden_states  # type: ignore[operator, union-attr]
    wanted = (states[-4] + states[-3] + states[-2] + states[-1])[0].mean(0)
    np.testing.assert_allclose(mean.vector("I  am fine ", cues="short"), wanted.numpy(), atol=1e-5)
    np.testing.assert_allclose(last.vector("I am fine", cues="short"), states[-1][0, -1].numpy(), atol=1e-5)


def test_words_and_cues_both_move_the_vector_and_silence_has_none(folder: Path) -> None:
    reader = PromptedText.load(folder)
    plain = reader.vector("I am fine")
    assert plain is not None
    assert plain.shape == (16,)
    assert not np.allclose(plain, reader.vector("I am not fine"))
    assert not np.allclose(plain, reader.vector("I am fine", cues="The wording is clipped."))
    assert reader.vector("  ") is None
    assert np.isfinite(reader.vector("well " * 900)).all()
    with pytest.raises(InputError, match="last, mean"):
        PromptedText.load(folder, pooling="max")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        PromptedText.load(folder / "nowhere")


def test_nano_tells_glad_words_from_sad_ones_by_their_vectors() -> None:
    reader = PromptedText.load_nano(NANO)
    glad, glad_too, sad = (
        reader.vector(text)
        for text in ("I love this, so happy!", "What a great day, I am glad!", "I miss her and I cry.")
    )
    assert np.linalg.norm(glad - glad_too) < np.linalg.norm(glad - sad)  # type: ignore[operator]


def test_cues_are_asked_for_once_and_kept_on_disk(tmp_path: Path, endpoint: Any, completion: Any) -> None:
    endpoint.reply = lambda body, n: (200, {}, completion(f"  Short words,\nremark {n}. "))

    def ask() -> EndpointCues:
        options = EndpointOptions(base_url=endpoint.url, model="m", temperature=0.0)
        return EndpointCues(ChatEndpoint(options, cache=AnswerCache(tmp_path), key="k"))

    cues = write_all(ask(), ["I am  fine", "", "I am fine", "go away"], workers=1)
    assert cues == ["Short words, remark 1.", None, "Short words, remark 1.", "Short words, remark 2."]
    assert write_all(ask(), ["go away"], workers=1) == ["Short words, remark 2."]  # another process, nothing asked
    assert len(endpoint.bodies) == 2
    assert endpoint.bodies[0]["messages"][0]["content"] == SYSTEM
    assert endpoint.bodies[0]["messages"][1]["content"] == "The words: I am fine"


def test_an_essay_is_no_cue(tmp_path: Path, endpoint: Any, completion: Any) -> None:
    endpoint.reply = lambda body, n: (200, {}, completion("word " * 200))
    options = EndpointOptions(base_url=endpoint.url, model="m")
    with pytest.raises(CueError, match="allowed: 1 to 400"):
        EndpointCues(ChatEndpoint(options, cache=AnswerCache(tmp_path), key="k")).write("Hello")


def test_a_local_model_writes_the_same_cue_as_generate_and_only_once(tmp_path: Path, folder: Path) -> None:
    cues = LocalCues.load(folder, cache=AnswerCache(tmp_path), max_tokens=12)
    prompts: list[str] = []
    encode = cues.encode
    cues.encode = lambda text: prompts.append(text) or encode(text)  # type: ignore[func-returns-value]
    written = cues.write("I am fine")
    ids = torch.tensor([encode(prompts[0])])
    generated = cues.model.generate(  # type: ignore[operator]
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=2, pad_token_id=2
    )
    assert written == " ".join(cues.decode(generated[0, ids.shape[1] :].tolist()).split())
    assert cues.write(" I am fine") == written
    assert len(prompts) == 1
    again = LocalCues.load(folder, cache=AnswerCache(tmp_path), max_tokens=12)
    again.encode = lambda text: pytest.fail("the cue is on the disk")
    assert again.write("I am fine") == written
    assert again.name == cues.name != hashlib.sha256().hexdigest()
