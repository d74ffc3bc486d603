"""Nano's tokenizer: a byte-level BPE of about 6,000 entries, trained on the text data sets and the answer phrases.

Byte-level BPE with case kept, NFC normalisation and digits cut one by one, so any text round-trips. The ids start with
the prompt's structure tokens, then slots, affect buckets and one token per emotion word, spelled ``<label:anger>`` so
that it never collides with the word in running text. All of them are "special" in the file, so decoding an answer that
cites slots needs ``skip_special_tokens=False``. What a token means to the prompt is `emollama.prompt`'s business.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from emollama.datasets import emobank, goemotions, xed
from emollama.errors import DatasetError
from emollama.labels import GOEMOTIONS_28, NANO_LABELS
from emollama.prompt import MARKERS, NUM_QUOTE_SLOTS, NUM_TIME_SLOTS, label_token

TIME_SLOTS = tuple(f"<t{index}>" for index in range(NUM_TIME_SLOTS))
QUOTE_SLOTS = tuple(f"<q{index}>" for index in range(NUM_QUOTE_SLOTS))
NUM_BUCKETS = 9
VALENCE_TOKENS = tuple(f"<v{index}>" for index in range(NUM_BUCKETS))
AROUSAL_TOKENS = tuple(f"<a{index}>" for index in range(NUM_BUCKETS))
EXTRA_EMOTIONS = ("boredom", "worry", "calm", "excitement", "confusion", "trust", "anticipation", "other")
# Every emotion word with a token of its own, without repeats: 8 of nano, the rest of GoEmotions' 28, six more.
LABEL_NAMES = tuple(dict.fromkeys((*NANO_LABELS, *GOEMOTIONS_28, *EXTRA_EMOTIONS)))
VOCABULARY_SIZE = 6016
SPECIAL_TOKENS = (
    *MARKERS, *TIME_SLOTS, *QUOTE_SLOTS, *VALENCE_TOKENS, *AROUSAL_TOKENS,
    *(label_token(name) for name in LABEL_NAMES),
)  # fmt: skip

# How answers and cue lines speak; repeated in the training text so that their words become whole tokens.
ANSWER_PHRASES = (
    "The person appears joyful. The mouth opens into a broad smile from 10.2 s and stays until the end, and the cheeks "
    "are raised; before that, until about 9 s, the brows were drawn up and the gaze was down, which looks like grief.",
    "There was no voice to listen to, so this rests on the face alone. There was no face to see, so this rests on the "
    "voice and the words. No words were given, so nothing is said about them.",
    "The person appears neutral, happy, surprised, sad, angry, disgusted, afraid, contemptuous, worried or bored.",
    "The person seems mostly sad, though not clearly so; the confidence is low, moderate, fairly high, very high.",
    "neutral happiness surprise sadness anger disgust fear contempt boredom worry calm excitement confusion trust",
    "Face: expression, smile, mouth corners, lips, brows, eyebrows, eyes, eyelids, nose, cheeks, jaw, gaze, frown.",
    "Voice: pitch is high, medium or low; loudness rises, falls or stays level; the speech rate is fast or slow; "
    "louder, quieter, higher, lower, steady, varied, trembling, flat, monotone, tense, soft, breathy.",
    "Words: the transcript says, the words sound hopeful, the wording is negative, positive or plain.",
    "The face and the voice agree. The face, the voice and the words disagree, and the face weighed more than the "
    "voice. The words point to anger while the voice points to sadness, so the reading is uncertain.",
    "From about the first second until the end of the clip. Between the beginning and the middle. At the start, later.",
    "I cannot tell who the person is, how old they are, where they come from, their health or their personality; I can "
    "only describe what the clip shows: the visible expression, the sound of the voice and the words.",
    "verdict sad low; face happy medium, neutral low; voice angry pitch high loudness medium rate low; words neutral; "
    "agree lead face; conflict lead voice; single lead words; others worried; absent voice words; abstained; picture",
    "valence arousal dominance probability percent seconds hertz semitones decibels syllables per second",
    '{"emotion": "sadness", "confidence": 0.71, "evidence": ["face", "voice", "words"]}',
    "What emotion does this person show? Why do you think so? Which modality led? How sure are you? Answer in a word. "
    "Describe the emotion in the clip. When does it change? Is the person smiling? Reply as JSON.",
)


def corpus(data: Path, *, phrase_repeats: int = 40) -> Iterator[str]:
    """Yield every training text (train splits only) and the answer phrases, the latter ``phrase_repeats`` times."""
    yield from (comment.text for comment in goemotions.read(data, split="train"))
    yield from (line.text for line in xed.read(data))
    yield from (sentence.text for sentence in emobank.read(data, split="train"))
    for _ in range(phrase_repeats):
        yield from ANSWER_PHRASES


def train_tokenizer(texts: Iterable[str], *, vocabulary_size: int = VOCABULARY_SIZE) -> Tokenizer:
    """Train the byte-level BPE; `SPECIAL_TOKENS` take the first ids in their order."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer


def main(arguments: list[str] | None = None) -> None:
    """``python -m train.tokenizer --data DIR --output FILE``."""
    parser = argparse.ArgumentParser(description="Train nano's tokenizer.")
    parser.add_argument("--data", type=Path, default=os.environ.get("EMOLLAMA_DATA", "../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("emollama/assets/nano/tokenizer.json"))
    options = parser.parse_args(arguments)
    if options.output.exists():
        raise DatasetError(
            f"{options.output} exists and shipped weights depend on its ids; give another --output", field="output"
        )
    tokenizer = train_tokenizer(corpus(options.data))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(options.output), pretty=False)


if __name__ == "__main__":
    main()
