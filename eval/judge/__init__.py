"""Figures that a language model judges: overlap of clues and labels, groups of synonyms, labels of a description.

Any OpenAI-compatible endpoint can be the judge. The wording lies in ``eval/prompts`` with a version and is hashed into
every result; answers are cached by the content of the request. A reply that cannot be read is asked for again in other
words and then counted as unjudged, never guessed; too many of these give no figure at all. Such figures compare models
under one judge on one day; they are not comparable across judges (``docs/judges.md``).
"""

from __future__ import annotations

from eval.judge.judge import Judge, Judgement, JudgeOptions, UnjudgedError
from eval.judge.overlap import Agreement, OverlapResult, Pair, agreement, clue_overlap, label_overlap
from eval.judge.prompts import PromptFile, load_prompt
from eval.judge.words import GroupedWords, extract_labels, group_synonyms, write_groups, write_labels

__all__ = [
    "Agreement", "GroupedWords", "Judge", "JudgeOptions", "Judgement", "OverlapResult", "Pair", "PromptFile",
    "UnjudgedError", "agreement", "clue_overlap", "extract_labels", "group_synonyms", "label_overlap", "load_prompt",
    "write_groups", "write_labels",
]  # fmt: skip
