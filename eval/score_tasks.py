"""What each benchmark's files hold, which figures are its own, and where its rules come from.

A task says how rows are read and compared (``kind``), the classes in the data set's own words, the official figure
(``primary``) and whether a prediction file may name clips that are not scored. Sources: MERTools
(zeroQiaoba/MERTools) for MER and MERBench, AffectGPT for HIT, the ABAW challenge pages, and the data sets' papers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from emollama.errors import InputError
from emollama.labels import ABAW_8, AFFECTNET_8, EKMAN_7, EMODB_6, GOEMOTIONS_28, NANO_LABELS

Kind = Literal[
    "classes", "valence_arousal", "action_units", "intensities", "sentiment", "multilabel", "set", "wheel", "hit"
]
CLASS_FIGURES = ("waf", "macro_f1", "uar", "war")
MER = ("neutral", "angry", "happy", "sad", "worried", "surprise")
BASIC_7 = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
ACTION_UNITS = ("AU1", "AU2", "AU4", "AU6", "AU7", "AU10", "AU12", "AU15", "AU23", "AU24", "AU25", "AU26")
COMPOUND_7 = (
    "fearfully surprised", "happily surprised", "sadly surprised", "disgustedly surprised", "angrily surprised",
    "sadly fearful", "sadly angry",
)  # fmt: skip
INTENSITIES = ("Admiration", "Amusement", "Determination", "Empathic Pain", "Excitement", "Joy")
MAFW_11 = (
    "anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt", "anxiety", "helplessness",
    "disappointment",
)  # fmt: skip
RAVDESS_8 = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
MELD_7 = ("anger", "joy", "sadness", "neutral", "disgust", "fear", "surprise")
IEMOCAP_4 = ("happy", "sad", "neutral", "angry")
IEMOCAP_6 = (*IEMOCAP_4, "excited", "frustrated")


@dataclass(frozen=True, kw_only=True)
class ScoreTask:
    """How one benchmark's predictions are scored.

    ``allow_extra``: the prediction file may hold more names than the truth; only the truth's are scored.
    ``with_valence``: a valence column is scored too (MSE, emoval). ``reader``: the year whose rules read word lists.
    ``answers``: how a class is found in a cell. ``dropped_gold``: classes of the truth whose clips are not scored.
    ``by_index``: a cell may hold the class index of the data set.
    """

    kind: Kind
    primary: str
    source: str
    labels: tuple[str, ...] = ()
    figures: tuple[str, ...] = CLASS_FIGURES
    allow_extra: bool = False
    with_valence: bool = False
    by_index: bool = False
    reader: Literal["2024", "2025"] = "2025"
    levels: tuple[int, ...] = ()
    answers: Literal["name", "choice", "preference"] = "name"
    dropped_gold: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind in ("classes", "multilabel") and len(self.labels) < 2:
            raise InputError(f"labels {self.labels!r} holds fewer than 2 classes", field="labels")
        if self.kind == "wheel" and not self.levels:
            raise InputError("levels is empty; a wheel task wants level 1, level 2 or both", field="levels")


def _classes(labels: tuple[str, ...], primary: str, source: str, *, by_index: bool = False) -> ScoreTask:
    return ScoreTask(kind="classes", labels=labels, primary=primary, source=source, by_index=by_index)


def _mer_valence(source: str) -> ScoreTask:
    return ScoreTask(kind="classes", labels=MER, primary="emoval", with_valence=True, source=source)


def _mer_pool(source: str) -> ScoreTask:
    return ScoreTask(kind="classes", labels=MER, primary="waf", allow_extra=True, source=source)


def _sentiment(source: str) -> ScoreTask:
    return ScoreTask(kind="sentiment", labels=("negative", "positive"), primary="waf", source=source)


SCORE_TASKS: Mapping[str, ScoreTask] = MappingProxyType(
    {
        "mer2023_multi": _mer_valence("MER2023 track 1 (test1), WAF - 0.25 MSE"),
        "mer2023_noise": _mer_valence("MER2023 track 2 (test2), WAF - 0.25 MSE"),
        "mer2023_semi": _mer_pool("MER2023 track 3 (test3), WAF"),
        "mer2024_semi": _mer_pool("MER2024 track 1, WAF"),
        "mer2024_noise": _mer_pool("MER2024 track 2, WAF"),
        "mer2024_ov": ScoreTask(
            kind="set", primary="score", reader="2024", allow_extra=True,
            source="MER2024 track 3: (set accuracy + set recall) / 2 with synonym groups",
        ),
        "mer2025_semi": _mer_pool("MER2025 track 1, WAF"),
        "mer2025_fg": ScoreTask(
            kind="wheel", primary="ew", levels=(1, 2), allow_extra=True,
            source="MER2025 track 2: mean of the level-1 and level-2 emotion-wheel F",
        ),
        "mer2026_cross": _mer_pool("MER2026 track 1, WAF"),
        "mer2026_fg": ScoreTask(
            kind="wheel", primary="ew_level1", levels=(1,), allow_extra=True,
            source="MER2026 track 2: level-1 emotion-wheel F",
        ),
        "mer2026_prefer": ScoreTask(
            kind="classes", labels=("a1", "a2"), primary="waf", answers="preference", dropped_gold=("same",),
            source="MER2026 track 3: two-class WAF; truth 'same' dropped, predicted 'same' counts as a1",
        ),
        "emer": ScoreTask(
            kind="set", primary="score", reader="2024",
            source="EMER open vocabulary: (set accuracy + set recall) / 2, as MER2024-OV",
        ),
        "ovmerd": ScoreTask(
            kind="wheel", primary="ew_level1", levels=(1,), source="OV-MERD+ of MER-UniBench: level-1 emotion-wheel F"
        ),
        "unibench_hit": ScoreTask(
            kind="hit", primary="hit",
            source="basic emotions of MER-UniBench (AffectGPT, ICML 2025): hit rate at level 1",
        ),
        "mosi": _sentiment("CMU-MOSI as in MERBench: WAF on non-zero"),
        "mosei": _sentiment("CMU-MOSEI as in MERBench: WAF on non-zero"),
        "sims": _sentiment("CH-SIMS as in MERBench: WAF on non-zero"),
        "simsv2": _sentiment("CH-SIMS v2 as in MERBench: WAF on non-zero"),
        "dfew": _classes(
            ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"), "war",
            "DFEW (Jiang et al., ACM MM 2020): WAR and UAR",
        ),
        "mafw": _classes(MAFW_11, "war", "MAFW (Liu et al., ACM MM 2022): WAR and UAR"),
        "meld": _classes(MELD_7, "waf", "MELD (Poria et al., ACL 2019): WAF"),
        "iemocap": _classes(IEMOCAP_4, "waf", "IEMOCAP, 4 classes, as in MERBench: WAF and accuracy"),
        "iemocap6": _classes(IEMOCAP_6, "waf", "IEMOCAP, 6 classes, as in MERBench: WAF and accuracy"),
        "cremad": _classes(BASIC_7[:6], "war", "CREMA-D (Cao et al., 2014), 6 classes: accuracy"),
        "ravdess": _classes(RAVDESS_8, "war", "RAVDESS (Livingstone and Russo, 2018), 8 classes: accuracy"),
        "emodb": _classes(EMODB_6, "uar", "EmoDB (Burkhardt et al., 2005), the 6 classes of this project: UAR"),
        "ferplus": _classes(NANO_LABELS, "war", "FER+ (Barsoum et al., ICMI 2016), majority vote: accuracy"),
        "affectnet": _classes(AFFECTNET_8, "war", "AffectNet (Mollahosseini et al., 2017), 8 classes: accuracy"),
        "abaw_expr": _classes(ABAW_8, "macro_f1", "ABAW EXPR: mean F1 of 8 classes", by_index=True),
        "abaw_ce": _classes(COMPOUND_7, "macro_f1", "ABAW CE (C-EXPR-DB): mean F1 of 7 classes", by_index=True),
        "abaw_va": ScoreTask(kind="valence_arousal", primary="ccc", source="ABAW VA: mean CCC over all frames"),
        "abaw_au": ScoreTask(
            kind="action_units", primary="au_f1", labels=ACTION_UNITS, source="ABAW AU: mean of 12 binary F1"
        ),
        "abaw_emi": ScoreTask(
            kind="intensities", primary="pearson", labels=INTENSITIES,
            source="ABAW EMI (Hume-Vidmimic2): mean Pearson r",
        ),
        "goemotions": ScoreTask(
            kind="multilabel", primary="macro_f1", labels=GOEMOTIONS_28,
            source="GoEmotions (Demszky et al., ACL 2020): macro F1 of 28 labels",
        ),
        "emobank": ScoreTask(
            kind="valence_arousal", primary="pearson",
            source="EmoBank (Buechel and Hahn, EACL 2017): mean Pearson r of valence and arousal",
        ),
        "xed": _classes(EKMAN_7, "macro_f1", "XED (Oehman et al., COLING 2020), English lines of one class: macro F1"),
        "emobench_m": ScoreTask(
            kind="classes", labels=tuple("ABCDEFGH"), primary="war", figures=("war",), answers="choice",
            source="multiple choice, as EmoBench-M: accuracy",
        ),
    }
)  # fmt: skip
