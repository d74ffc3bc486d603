"""What must be said beside every reading: what it is, what its numbers mean, and what is never read.

The sentences stand in reports, on the page and in the notice for the people who are filmed (``docs/ethics.md``).
"""

from __future__ import annotations

EXPRESSION = (
    "This is a reading of what a face, a voice and words express. An expression is not a feeling: people show what "
    "they do not feel and feel what they do not show. Nothing here says what somebody feels, thinks, intends or is."
)
CONFIDENCE = (
    "The confidence of a label is calibrated on held-out clips: of the readings with 80 %, about 80 in 100 met the "
    "label that people had given. It says how often such a label is right, not how strong an emotion is. A reading "
    "that is too unsure is marked as abstained and must not be used as an answer."
)
NEVER_READ = "Who a person is, their sex, age, origin, health and character are not read."
NOTES = (EXPRESSION, CONFIDENCE, NEVER_READ)
