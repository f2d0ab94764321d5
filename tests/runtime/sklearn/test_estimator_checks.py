"""scikit-learn's own checks of estimators. All checks pass numbers, but Embedder and Scorer only take text.

So two subclasses first turn each row of numbers into a sequence, and do nothing else. The checks then test the fits,
clones, pickles, parameters, shapes and order of Embedder and Scorer.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.7", reason="the checks of 1.6 are others")

import sklearn.utils.estimator_checks as theirs
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import validate_data

from abonyx.session import open_session
from abonyx.sklearn import Embedder, Scorer

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
# Enough that two rows never share a sequence; the model's time is theirs.
RESIDUES = 12


class _Spelled:
    """A row of numbers is a short sequence: a hash of their float32, in letters. Equal rows are equal sequences."""

    def _spelled(self, X: Any, reset: bool) -> list[str]:
        rows = validate_data(self, X, reset=reset, dtype=np.float64)
        digests = [hashlib.sha512(row.astype(np.float32).tobytes()).digest()[:RESIDUES] for row in rows]
        return ["".join(LETTERS[byte % len(LETTERS)] for byte in digest) for digest in digests]

    def fit(self, X: Any, y: Any = None) -> Any:
        return super().fit(self._spelled(X, True), y)  # type: ignore[misc]

    def transform(self, X: Any) -> Any:
        return super().transform(self._spelled(X, False))  # type: ignore[misc]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        given = tags.input_tags
        given.two_d_array, given.one_d_array, given.string = True, False, False
        return tags


class SpelledEmbedder(_Spelled, Embedder):
    pass


class SpelledScorer(_Spelled, Scorer):
    def predict(self, X: Any) -> Any:
        return super().predict(self._spelled(X, False))

    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(self._spelled(X, False))


# Expected failures of Scorer only. They fail because `fit` learns nothing, not because of text.
FIXED_CLASSES = "the head's classes are 0 and 1, and fit refuses other labels: a metric would compare unlike things"
EXPECTED = dict.fromkeys(
    (
        "check_estimators_dtypes",  # labels 1 and 2
        "check_classifier_data_not_an_array",  # 1 and 2
        "check_classifiers_classes",  # "one" and "two"
        "check_fit2d_1feature",  # 1 and 2
    ),
    FIXED_CLASSES,
) | {"check_classifiers_one_label": "a head calls by its own threshold, whatever classes the labels of fit have"}


def expected(estimator: Any) -> dict[str, str]:
    return EXPECTED if isinstance(estimator, Scorer) else {}


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with open_session():
        yield


@pytest.fixture(autouse=True)
def isolated() -> None:
    """Replaces conftest's fixture: one session for all checks."""


# Without this option, an older scikit-learn does not notice an expected failure that passes.
STRICT: dict[str, Any] = {"xfail_strict": True}
if "xfail_strict" not in inspect.signature(parametrize_with_checks).parameters:
    STRICT = {}


@parametrize_with_checks([SpelledEmbedder(), SpelledScorer(domain="off")], expected_failed_checks=expected, **STRICT)
def test_check(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def test_each_expected_failure_is_a_check_that_exists() -> None:
    """xfail_strict finds a check that passes, but not a wrong name of a check."""
    names = {theirs._check_name(check) for check in theirs._yield_all_checks(SpelledScorer(), legacy=True)}
    assert set(EXPECTED) <= names


def test_scikit_learn_itself_knows_that_they_take_text() -> None:
    for estimator in (Embedder(), Scorer()):
        tags = get_tags(estimator).input_tags
        assert (tags.string, tags.one_d_array, tags.two_d_array) == (True, True, False)
