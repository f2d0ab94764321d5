"""Descriptions of heads for the manifest and the golden rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from abonyx.arrays import Float32Array, Int64Array
from abonyx.bundle import Golden
from abonyx.bundle.heads import column_places
from abonyx.bundle.manifest import LOGISTIC, HeadSpec, HeadTraining
from abonyx_export.head.head import Head

DEFAULT_THRESHOLD = 0.5  # scikit-learn's own rule for a binary logistic regression


def sums_intercept(head: Head, mean: Float32Array) -> float:
    """What the runtime adds to the head's sum: the intercept, and the product of the common mean (D,) and weights."""
    weights, intercept = head.weights()
    return intercept + float(np.tile(mean, head.chain_count).astype(np.float64) @ weights)


def head_spec(head: Head, chains: Sequence[str], intercept: float, training: HeadTraining | None = None) -> HeadSpec:
    """The manifest's description of a head.

    Args:
        head: the head.
        chains: chains of the head's training set, keys of manifest.CHAINS.
        intercept: from sums_intercept.
        training: the record of `fit`; None = the head comes from a file.
    """
    return HeadSpec(
        name=head.name,
        kind=head.kind,
        unit=head.unit,
        higher_is_worse=head.higher_is_worse,
        training_sd=head.training_sd,
        intercept=intercept,
        classes=[float(label) for label in head.classes],
        chains=list(chains),
        source_name=head.source_name,
        source_sha256=head.source_sha256,
        encoder=head.encoder,
        pooling=head.pooling,
        pooling_batch_size=head.pooling_batch_size,
        thresholds=head.thresholds,
        default_threshold=DEFAULT_THRESHOLD if head.kind == LOGISTIC else None,
        intercept_shift=head.intercept_shift,
        training=training,
        placeholder=head.placeholder,
    )


def golden_of(
    input_ids: Int64Array, lengths: Int64Array, embedding: Float32Array, heads: Sequence[Head], mean: Float32Array
) -> Golden:
    """Golden rows for these heads, whose graph subtracts `mean` (D,); see Golden."""
    columns = [part for head in heads for part in head.parts()]
    weights = [column.weights() for column in columns]
    return Golden(
        input_ids=input_ids,
        lengths=lengths,
        embedding=embedding,
        value=np.stack([column.logit(embedding) for column in columns], axis=1),
        head_names=tuple(column.name for column in columns),
        head_coef=np.stack([coef for coef, _ in weights]),
        head_intercept=np.array([intercept for _, intercept in weights]),
        head_mean=mean,
    )


def join_heads(golden: Golden, more: Golden) -> Golden:
    """The golden rows with the heads of `golden` and `more`, which must have the same rows and mean."""
    return dataclasses.replace(
        golden,
        value=np.concatenate([golden.value, more.value], axis=1),
        head_names=golden.head_names + more.head_names,
        head_coef=np.concatenate([golden.head_coef, more.head_coef]),
        head_intercept=np.concatenate([golden.head_intercept, more.head_intercept]),
    )


def stored_heads(specs: Sequence[HeadSpec], golden: Golden) -> list[Head]:
    """A bundle's own heads, from its manifest and its golden rows, with the scaler folded into the weights."""
    places = column_places(specs)
    return [
        Head(
            coef=golden.head_coef[list(places[spec.name])].ravel(),  # (chains, D) -> (chains * D,)
            intercept=float(golden.head_intercept[list(places[spec.name])].sum()),
            mean=None,
            scale=None,
            classes=tuple(int(label) for label in spec.classes),
            source_name=spec.source_name,
            source_sha256=spec.source_sha256,
            encoder=spec.encoder,
            pooling=spec.pooling,
            pooling_batch_size=spec.pooling_batch_size,
            thresholds=spec.thresholds,
            intercept_shift=spec.intercept_shift,
            placeholder=spec.placeholder,
            name=spec.name,
            unit=spec.unit,
            higher_is_worse=spec.higher_is_worse,
            training_sd=spec.training_sd,
            chain_count=len(spec.chains),
        )
        for spec in specs
    ]
