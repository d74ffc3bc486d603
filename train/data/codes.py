"""Every problem that a data set can have: its code, how grave it is, and what to do about it.

``docs/data.md`` holds the same table; a test keeps the two alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Code:
    """What a code means, and the remedy that is said when the place itself suggests none."""

    severity: Severity
    meaning: str
    remedy: str


def _error(meaning: str, remedy: str) -> Code:
    return Code("error", meaning, remedy)


def _warning(meaning: str, remedy: str) -> Code:
    return Code("warning", meaning, remedy)


CODES: Mapping[str, Code] = MappingProxyType(
    {
        # the file
        "manifest_missing": _error("there is no such file", "give the path of a manifest (JSONL)"),
        "no_rows": _error("the file holds no samples", "write a line of JSON for each sample"),
        "too_many_rows": _error("more lines than are allowed", "divide the data set, or leave samples out"),
        "byte_order_mark": _warning("the file begins with a byte order mark", "save it as UTF-8 without one"),
        # the line
        "line_too_long": _error("the line is longer than allowed", "shorten its texts; clips go into files"),
        "not_utf8": _error("the line is not text in UTF-8", "save the file as UTF-8"),
        "bad_json": _error("the line is not JSON", "correct the line; each line is one JSON object"),
        "not_an_object": _error("the line is JSON, but no object", "write {...} with the fields of a sample"),
        "not_finite": _error("a number is NaN or infinite", "leave the field out when it is not known"),
        "field_twice": _error("a field stands twice in one object", "keep one of the two"),
        "bad_header": _error("the header line is wrong", "correct it, or remove it: it may be left out"),
        "header_misplaced": _error("a header that is not the first line", "move it to line 1, or remove it"),
        # the fields
        "unknown_field": _error("a field the format does not know", "remove it, or put it into meta"),
        "wrong_type": _error("a value of the wrong type", "write it in the type that is allowed"),
        "missing_id": _error("the sample has no id", "give every sample an id of its own"),
        "duplicate_id": _error("two samples have one id", "give every sample an id of its own"),
        "too_long": _error("a text is longer than allowed", "shorten it"),
        "control_characters": _error("a text holds control characters", "remove them"),
        "out_of_range": _error("a number is outside its range", "bring it to the scale of the manifest"),
        "reversed_times": _error("the stretch ends where it begins, or before", "write an end after the start"),
        "unknown_split": _error("a split the format does not know", "write train, valid or test"),
        "empty_transcript": _error("the transcript is empty", "write what is said, or leave the field out"),
        "no_modality": _error("no picture, no voice and no words", "name a clip, or write a transcript"),
        "no_target": _error(
            "nothing to learn from the sample", "write a label, a distribution, messages, or valence and arousal"
        ),
        "unknown_label": _error("a label outside the label set", "write one of the set, or add it to the set"),
        "label_spelling": _error("two spellings of one emotion", "write it in one way everywhere"),
        "too_many_labels": _error("more labels than a label set may have", "bring rare labels together"),
        "bad_distribution": _error("shares that are no distribution", "write shares from 0 to 1 that sum to 1"),
        "label_disputed": _error("label and distribution disagree", "keep one of the two"),
        "no_answer": _error("a dialogue without an answer", "end it with a turn of role assistant"),
        "empty_message": _error("an empty turn", "write the turn's text, or remove the dialogue"),
        "role_order": _error("turns out of order", "an optional system turn, then user and assistant in turn"),
        "bad_value": _error("a value that the format does not allow", "correct the value"),
        # the clips
        "missing_clip": _error("there is no such clip", "put the file beside the manifest, or correct its path"),
        "clip_outside": _error(
            "the clip's path leads out of the manifest's folder", "put the clip beside the manifest; no links outwards"
        ),
        "empty_clip": _error("the clip is an empty file", "put the whole file there"),
        "unreadable_clip": _error("the file cannot be read", "make it readable"),
        "not_media": _error("the file is no media file", "give a video, sound file or picture"),
        "undecodable_clip": _error("nothing of the clip can be decoded", "export the clip anew"),
        "clip_over_limit": _error("the clip is over a limit", "shorten the clip, or make it smaller"),
        "damaged_clip": _warning("the clip is damaged and could be read in part", "export the clip anew"),
        "silent_clip": _warning("the clip's sound is digital silence", "check the recording"),
        "start_past_end": _error("the stretch begins after the clip's end", "correct start"),
        "end_past_end": _warning("the stretch ends after the clip's end", "correct end; the clip's end is used"),
        # the whole
        "no_train_rows": _error("no sample is for training", "give samples the split train, or none"),
        "no_valid_rows": _warning("no sample is for validation", "divide the set with `emollama data split`"),
        "one_class": _error("all labels are the same", "add samples of another label"),
        "too_few_samples": _error("too few samples of a label for training", "add samples, or leave the label out"),
        "few_samples": _warning("few samples of a label for training", "add samples; the label will be learned badly"),
        "label_not_trained": _error(
            "a label of other samples that no sample for training has", "add samples for training, or remove it"
        ),
        "label_without_sample": _warning(
            "labels of the set that no sample has", "add samples; the model will hardly ever name them"
        ),
        "speaker_in_two_splits": _error(
            "one person in training and in evaluation", "divide by speaker with `emollama data split`"
        ),
        "clip_in_two_splits": _error(
            "one content in training and in evaluation", "keep it on one side; `emollama data split` does"
        ),
        "same_sample": _warning("one content twice in a split", "remove one of the two"),
        "two_labels": _error("one content with two labels", "decide on one label, or write a distribution"),
        # the bundle
        "bundle_unreadable": _error("the archive is damaged or of an unknown kind", "send a zip, a tar or a tar.gz"),
        "bundle_compression": _error("a compression that is not read", "use zip with deflate, tar or tar.gz"),
        "bundle_encrypted": _error("the archive is encrypted", "send it without a password"),
        "bundle_path": _error("a member's name leads out of the archive", "pack relative names without .."),
        "bundle_link": _error("a member is a link or a device", "pack the files themselves"),
        "bundle_duplicate": _error("two members have one name", "pack every file once, under a name of its own"),
        "bundle_too_large": _error("the archive holds more than is allowed", "send fewer or shorter clips"),
        "bundle_no_manifest": _error("no manifest.jsonl in the archive", "pack manifest.jsonl beside the clips"),
        "unused_member": _warning("a file that the manifest does not name", "nothing: it was not unpacked"),
    }
)
