"""Nano's tokenizer: a byte-level BPE of about 6,000 entries, trained on the text data sets and the answer phrases.

Byte-level BPE with case kept, NFC normalisation and digits cut one by one, so any text round-trips. The ids start with
the prompt's structure tokens, then slots, affect buckets and one token per emotion word, spelled ``<label:anger>`` so
that it never collides with the word in running text. All of them are "special" in the file, so decoding an answer that
cites slots needs ``skip_special_tokens=False``. What a token means to the prompt is `emollama.prompt`'s business.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from emollama.datasets import emobank, goemotions, xed
from emollama.errors import DatasetError
from emollama.labels import GOEMOTIONS_28, NANO_LABELS
from emollama.prompt import MARKERS, NUM_QUOTE_SLOTS, NUM_TIME_SLOTS, label_token
from train.builders.cues import iter_phrase_corpus
from train.config import data_dir

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

_OWN_TOKENS = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS))


def corpus(data: Path) -> Iterator[str]:
    """Yield every training text (train splits only), then the questions, cues and answers of the instruction data."""
    yield from (comment.text for comment in goemotions.read(data, split="train"))
    yield from (line.text for line in xed.read(data))
    yield from (sentence.text for sentence in emobank.read(data, split="train"))
    yield from iter_phrase_corpus()


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
    # Our own tokens are matched before BPE at use, so BPE must not learn their spelling.
    tokenizer.train_from_iterator((_OWN_TOKENS.sub(" ", text) for text in texts), trainer=trainer)
    return tokenizer


def main(arguments: list[str] | None = None) -> None:
    """``python -m train.tokenizer --data DIR --output FILE``."""
    parser = argparse.ArgumentParser(description="Train nano's tokenizer.")
    parser.add_argument("--data", type=Path, default=data_dir())
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
