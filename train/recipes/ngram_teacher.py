"""A linear n-gram model whose out-of-fold opinion softens nano's text targets.

TF-IDF of word 1-2-grams and character 2-5-grams with multinomial logistic regression. A comment is judged by a model
that did not see it, so the soft target says how a sentence of its kind is usually labelled. scikit-learn does the
work; it is needed for training the backbone only.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emollama.errors import DependencyError


def out_of_fold_probabilities(
    texts: Sequence[str],
    labels: Sequence[Sequence[str]],
    classes: Sequence[str],
    *,
    seed: int,
    num_folds: int = 5,
    inverse_penalty: float = 4.0,
    max_iterations: int = 60,
) -> np.ndarray:
    """Return [N, len(classes)] probabilities; a text with several labels counts as a share of each."""
    try:
        from scipy import sparse
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise DependencyError(
            "the n-gram teacher needs scikit-learn: pip install scikit-learn, or set task.teacher_share=0"
        ) from error
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"[\w\[\]']+|[^\w\s]")
    characters = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 5), min_df=min(3, len(texts)), sublinear_tf=True, max_features=150_000
    )
    features = sparse.hstack([words.fit_transform(texts), characters.fit_transform(texts)]).tocsr()
    rows = np.array([row for row, names in enumerate(labels) for _ in names])
    targets = np.array([classes.index(name) for names in labels for name in names])
    weights = np.array([1 / len(names) for names in labels for _ in names])
    folds = np.random.default_rng(seed).integers(num_folds, size=len(texts))
    out = np.zeros((len(texts), len(classes)), dtype=np.float32)
    for fold in range(num_folds):
        judged, used = np.flatnonzero(folds == fold), folds[rows] != fold
        if not len(judged):
            continue
        model = LogisticRegression(C=inverse_penalty, max_iter=max_iterations, tol=1e-3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits do not matter for a soft target
            model.fit(features[rows[used]], targets[used], sample_weight=weights[used])
        out[np.ix_(judged, model.classes_)] = model.predict_proba(features[judged])
    return out


def cached_probabilities(
    texts: Sequence[str], labels: Sequence[Sequence[str]], classes: Sequence[str], *, seed: int, folder: Path
) -> np.ndarray:
    """`out_of_fold_probabilities`, kept in ``folder`` under a hash of its inputs: a resumed run does not refit."""
    content = json.dumps([list(texts), [list(names) for names in labels], list(classes), seed])
    path = folder / f"ngram-teacher-{hashlib.sha256(content.encode()).hexdigest()[:12]}.npy"
    if path.is_file():
        kept: np.ndarray = np.load(path, allow_pickle=False)
        return kept
    fitted = out_of_fold_probabilities(texts, labels, classes, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as stream:
        np.save(stream, fitted)
    os.replace(temporary, path)
    return fitted
