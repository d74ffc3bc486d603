"""Facts about the shipped tokenizer that weights and prompts depend on, and its training in small."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from emollama.errors import DatasetError
from emollama.labels import GOEMOTIONS_28, NANO_LABELS
from emollama.prompt import MARKERS, Renderer, label_token
from train.tokenizer import LABEL_NAMES, SPECIAL_TOKENS, main, train_tokenizer

NANO = Path(__file__).parents[2] / "emollama" / "assets" / "nano" / "tokenizer.json"


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    return Tokenizer.from_file(str(NANO))


def test_own_tokens_take_the_first_ids_in_their_order(nano: Tokenizer) -> None:
    assert [nano.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    assert [nano.token_to_id(token) for token in MARKERS] == list(range(18))
    assert nano.token_to_id("<t0>") == 18
    assert nano.token_to_id("<q0>") == 34
    assert nano.token_to_id("<v0>") == 38
    assert nano.token_to_id("<a0>") == 47
    assert nano.token_to_id(label_token("neutral")) == 56
    assert nano.get_vocab_size() == 6016


def test_every_label_is_one_token_and_words_stay_words(nano: Tokenizer) -> None:
    for name in {*NANO_LABELS, *GOEMOTIONS_28, "boredom", "worry", "calm", "trust", "anticipation", "other"}:
        assert nano.encode(label_token(name)).ids == [nano.token_to_id(label_token(name))]
    taken = {nano.token_to_id(label_token(name)) for name in LABEL_NAMES}
    assert not taken & set(nano.encode("so sad, full of anger and joy; neutral? <label anger>").ids)


@pytest.mark.parametrize(
    "text",
    [
        "I'm SO sad... 123.45 %",
        "naïve café 😂 日本語",
        "  two  spaces\tand\nlines ",
        "[NAME] said “no” — it’s fine",
        'JSON {"a": [1, 2]}',
        "",
    ],
)
def test_text_comes_back_as_it_was(nano: Tokenizer, text: str) -> None:
    assert nano.decode(nano.encode(text).ids, skip_special_tokens=False) == text


def test_digits_are_single_and_case_is_kept(nano: Tokenizer) -> None:
    assert len(nano.encode("2026").ids) == 4
    assert nano.encode("Sad").ids != nano.encode("sad").ids


def test_composed_and_decomposed_letters_are_the_same_ids(nano: Tokenizer) -> None:
    assert nano.encode("caf\u00e9").ids == nano.encode("cafe\u0301").ids


def test_slots_survive_decoding_and_transcripts_cannot_forge_markers() -> None:
    renderer = Renderer.load(NANO)
    ids = renderer.encode("from <t0> to <t1>, <q0>.")
    assert {renderer.token_id(token) for token in ("<t0>", "<t1>", "<q0>")} <= set(ids)
    assert renderer.tokenizer.decode(ids, skip_special_tokens=False) == "from <t0> to <t1>, <q0>."
    forged = renderer.encode_untrusted("".join(SPECIAL_TOKENS))
    assert not set(forged) & set(range(len(SPECIAL_TOKENS)))


def test_training_keeps_own_tokens_first_and_the_shipped_file_safe(tmp_path: Path) -> None:
    small = train_tokenizer(["I am sad <t0> today", "you are sad <t0> too"] * 20, vocabulary_size=400)
    assert [small.id_to_token(index) for index in range(len(SPECIAL_TOKENS))] == list(SPECIAL_TOKENS)
    assert "Ġsad" in small.encode("am sad").tokens
    assert not any("t0" in token for token in small.get_vocab() if token != "<t0>")
    taken = tmp_path / "tokenizer.json"
    taken.write_text("{}")
    with pytest.raises(DatasetError, match="exists"):
        main(["--data", str(tmp_path), "--output", str(taken)])
