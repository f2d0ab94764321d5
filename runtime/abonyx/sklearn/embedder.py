"""An estimator that gives pooled embeddings as features."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from abonyx.arrays import Float32Array
from abonyx.config import RuntimeConfig
from abonyx.sklearn.pinned import as_value_errors, config_of, pin, pinned_model, texts_of


class Embedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turns antibody sequences into pooled embeddings.

    Each transform opens the bundle and closes it at the end. If the process already has an open session with the same
    bundle, transform uses that session and leaves it open.

    Args:
        bundle: directory or name of a bundle; None = the shipped model.
        config: provider, variant and other settings; None = the CPU and the bundle's default variant.

    Attributes:
        bundle_name_, bundle_sha256_, variant_: the bundle that fit found. transform refuses another one.
        embedding_width_: number of columns that transform returns.
    """

    def __init__(self, bundle: str | Path | None = None, *, config: RuntimeConfig | None = None) -> None:
        self.bundle = bundle
        self.config = config

    def fit(self, X: Any, y: Any = None) -> Self:
        """Note the bundle's name and hash. Nothing is learned from X, and no model is opened.

        Args:
            X: sequences: a list, a Series or an array of texts, or a table with one column.
            y: ignored.

        Raises:
            InputError: X is not texts. The error is also a ValueError.
            BundleError, ConfigError: the bundle cannot be read, or has no such variant.
        """
        texts_of(X, pairs=False)
        bundle = pin(self, config_of(self.bundle, self.config))
        self.embedding_width_ = bundle.manifest.embedding_width
        return self

    def transform(self, X: Any) -> Float32Array:
        """Embeddings: (n, width) float32, one row for each sequence, in order.

        Raises:
            NotFittedError: fit was not called.
            InputError: a sequence cannot be embedded. The error is also a ValueError.
            BundleError: the bundle has changed since fit.
            SessionInUse: the open session of this process has another bundle or config.
            EngineError: as for open_session and Session.embed.
        """
        check_is_fitted(self)
        texts = texts_of(X, pairs=False)
        with as_value_errors(), pinned_model(self, config_of(self.bundle, self.config)) as model:
            return model.embed(texts)

    @property
    def _n_features_out(self) -> int:
        return self.embedding_width_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = False, True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags
