"""An estimator that gives scores of heads as features, and calls as predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d

from abonyx.arrays import Float32Array, Float64Array, Int64Array
from abonyx.bundle.chosen import ChosenHeads, choose_heads
from abonyx.bundle.manifest import chain_letters
from abonyx.config import RuntimeConfig
from abonyx.domain import DomainRule
from abonyx.errors import ConfigError, printable
from abonyx.input.judged import judged, judged_pairs
from abonyx.model import OpenModel
from abonyx.sklearn.pinned import TextRefused, as_value_errors, config_of, pin, pinned_model, texts_of

_SHOWN = 5


class Scorer(ClassifierMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Scores antibody sequences with the heads of a bundle. fit learns nothing.

    Sessions are opened and closed as by Embedder.

    Args:
        bundle, config: as for Embedder.
        heads: names of the bundle's heads, or "all"; None = the first. transform gives a column for each. predict and
            predict_proba use the bundle's first head, which must be one of them and give probabilities.
        threshold, assay: for predict, as in score_file.
        domain: "check" = predict refuses sequences that get no call because of their flag; "off" = no check.

    Attributes:
        classes_: [0, 1]: specific, non-specific.
        heads_: names of the columns that transform returns.
        takes_pairs_: whether the heads need both chains.
        bundle_name_, bundle_sha256_, variant_: the bundle that fit found. The other methods refuse another one.
    """

    def __init__(
        self,
        bundle: str | Path | None = None,
        *,
        heads: Sequence[str] | str | None = None,
        threshold: float | None = None,
        assay: str | None = None,
        domain: Literal["check", "off"] = "check",
        config: RuntimeConfig | None = None,
    ) -> None:
        self.bundle = bundle
        self.heads = heads
        self.threshold = threshold
        self.assay = assay
        self.domain = domain
        self.config = config

    def fit(self, X: Any, y: Any = None) -> Self:
        """Note the bundle's name and hash. Nothing is learned, and no model is opened.

        Args:
            X: sequences: a list, a Series or an array of texts, or a table with one column. If the heads need both
                chains: a list of (heavy, light), or a table with these two columns.
            y: None, or labels 0 (specific) and 1 (non-specific). Other labels are refused, because a metric would
                compare them with these classes.

        Raises:
            InputError: X is not texts, or y has other labels. The error is also a ValueError.
            BundleError, ConfigError: the bundle or its heads cannot be used.
        """
        if self.domain not in ("check", "off"):
            raise ConfigError(f"domain is {self.domain!r:.50}", 'Give "check" or "off".')
        config = config_of(self.bundle, self.config)
        bundle = pin(self, config)
        wanted = choose_heads(bundle, self.heads, self.assay, self.threshold)
        self.takes_pairs_ = len(wanted.chains) > 1
        texts = texts_of(X, pairs=self.takes_pairs_)
        if y is not None:
            _refuse_labels(y, len(texts))
        self.classes_ = np.array([0, 1])
        self.heads_ = wanted.names
        return self

    def transform(self, X: Any) -> Float32Array:
        """Scores: (n, heads) float32, probabilities of logistic heads and values of linear heads.

        Raises:
            EngineError: as for Embedder.transform.
        """
        return self._scored(X)[0]

    def predict_proba(self, X: Any) -> Float64Array:
        """Probabilities of specific and non-specific by the bundle's first head: (n, 2) float64.

        Flagged sequences also get probabilities, as in Session.score.

        Raises:
            ConfigError: the first head gives values, or is not in `heads`.
            EngineError: as for Embedder.transform.
        """
        p = self._probabilities(X)[0]
        return np.stack([1 - p, p], axis=1)

    def predict(self, X: Any) -> Int64Array:
        """Calls: (n,) int64, 1 if p is strictly above the threshold, else 0. Uncertain scores also get 0 or 1.

        Raises:
            InputError: a sequence gets no call because of its flag (not with domain="off"). The error is also a
                ValueError.
            EngineError: as for predict_proba.
        """
        p, wanted, flags = self._probabilities(X)
        if flags:
            shown = "; ".join(f"X[{row}]: {printable(flag)}" for row, flag in flags[:_SHOWN])
            more = f"; and {len(flags) - _SHOWN} more" if len(flags) > _SHOWN else ""
            fix = 'Leave them out, or use predict_proba. With domain="off" they get a call too.'
            raise TextRefused(
                f"sequences that have a flag and get no call: {len(flags)} of {len(p)}: {shown}{more}", fix
            )
        assert wanted.rule is not None
        return (p.astype(np.float32) > np.float32(wanted.rule.threshold)).astype(np.int64)

    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """Names of the columns that transform returns: the names of the heads."""
        check_is_fitted(self)
        return np.array(self.heads_, dtype=object)

    def _scored(self, X: Any) -> tuple[Float32Array, ChosenHeads, list[tuple[int, str]]]:
        """(values, heads, [(row, reason), ...] for rows that are rejected, or get no call because of their flag)."""
        check_is_fitted(self)
        texts = texts_of(X, pairs=self.takes_pairs_)
        with as_value_errors(), pinned_model(self, config_of(self.bundle, self.config)) as model:
            wanted = choose_heads(model.bundle, self.heads, self.assay, self.threshold)
            values = model.score(texts, wanted.names)
            return values, wanted, self._flags(texts, wanted, model)

    def _flags(self, texts: list[Any], wanted: ChosenHeads, model: OpenModel) -> list[tuple[int, str]]:
        if self.domain == "off":
            return []
        rule = DomainRule("check", False, chain_letters(wanted.chains))
        pairs = len(wanted.chains) > 1
        rows = (
            judged_pairs(list(zip(*texts, strict=True)), rule, model.limit)
            if pairs
            else judged(texts, rule, model.limit)
        )
        return [
            (at, row.rejected or row.part.judgement.text)
            for at, row in enumerate(rows)
            if row.rejected or not row.part.judgement.trusted
        ]

    def _probabilities(self, X: Any) -> tuple[Float64Array, ChosenHeads, list[tuple[int, str]]]:
        values, wanted, flags = self._scored(X)
        if wanted.rule is None:
            first = f"the bundle's first head is not in {', '.join(wanted.names)}, or gives values"
            raise ConfigError(f"predict and predict_proba need probabilities: {first}", "Use transform.")
        return values[:, [head.first for head in wanted.heads].index(True)].astype(np.float64), wanted, flags

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = False, True
        tags.input_tags.string = True
        tags.target_tags.required, tags.classifier_tags.multi_class = False, False
        tags.classifier_tags.poor_score = True  # on scikit-learn's test data, because nothing is learned
        tags.transformer_tags.preserves_dtype = []
        return tags


def _refuse_labels(y: Any, count: int) -> None:
    labels = check_array(column_or_1d(y, warn=True), ensure_2d=False, dtype=None, input_name="y")
    check_classification_targets(labels)
    fix = "Give 1 for non-specific, 0 for specific."
    if len(labels) != count:
        raise TextRefused(
            f"y has {len(labels)} labels, and X has {count} sequences", "Give one label for each sequence."
        )
    if (found := type_of_target(labels, input_name="y")) != "binary":
        raise TextRefused(f"Only binary classification is supported. The type of the target is {found}", fix)
    other = [label for label in dict.fromkeys(labels.tolist()) if label not in (0, 1)]
    if other:
        shown = ", ".join(f"{label!r:.30}" for label in other[:_SHOWN])
        raise TextRefused(f"y has {shown}: the head's classes are 0 and 1", fix)
