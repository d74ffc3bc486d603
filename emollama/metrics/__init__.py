"""Scores as pure functions of numpy arrays and word lists; nothing here reads a data set or asks a model.

Class metrics take integer labels ``truth`` [N] and ``predicted`` [N] in ``range(num_classes)``. A prediction of -1
is one that could not be read (unparseable): it counts as wrong and belongs to no class. Undefined ratios (0/0) count
as 0 in F1, as in scikit-learn; classes without a true sample are left out of UAR.
"""

from emollama.metrics.classes import (
    accuracy,
    action_unit_f1,
    confusion_matrix,
    macro_f1,
    mean_recall,
    multilabel_f1,
    per_class_f1,
    per_class_recall,
    unweighted_average_recall,
    weighted_f1,
)
from emollama.metrics.confidence import (
    area_under_risk_coverage,
    brier,
    calibration_error,
    expected_calibration_error,
    reliability,
    risk_coverage,
)
from emollama.metrics.intervals import (
    Interval,
    PairedTest,
    bootstrap_interval,
    bootstrap_totals,
    cluster_totals,
    paired_test,
)
from emollama.metrics.openset import (
    OpenSetScore,
    hit_counts,
    parse_labels_2024,
    parse_labels_2025,
    parse_synonym_groups,
    set_accuracy_recall,
    set_score,
    synonym_map,
)
from emollama.metrics.series import (
    concordance,
    emoval,
    mean_pearson,
    mean_squared_error,
    pearson,
    valence_arousal_score,
)
from emollama.metrics.wheel import EmotionWheels, WheelScore, load_wheels, wheel_f1, wheel_hit, wheel_score

__all__ = [
    "EmotionWheels",
    "Interval",
    "OpenSetScore",
    "PairedTest",
    "WheelScore",
    "accuracy",
    "action_unit_f1",
    "area_under_risk_coverage",
    "bootstrap_interval",
    "bootstrap_totals",
    "brier",
    "calibration_error",
    "cluster_totals",
    "concordance",
    "confusion_matrix",
    "emoval",
    "expected_calibration_error",
    "hit_counts",
    "load_wheels",
    "macro_f1",
    "mean_pearson",
    "mean_recall",
    "mean_squared_error",
    "multilabel_f1",
    "paired_test",
    "parse_labels_2024",
    "parse_labels_2025",
    "parse_synonym_groups",
    "pearson",
    "per_class_f1",
    "per_class_recall",
    "reliability",
    "risk_coverage",
    "set_accuracy_recall",
    "set_score",
    "synonym_map",
    "unweighted_average_recall",
    "valence_arousal_score",
    "weighted_f1",
    "wheel_f1",
    "wheel_hit",
    "wheel_score",
]
