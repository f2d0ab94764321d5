"""Train a head from embeddings and labels: cross-validate, choose the regularisation, and fit on all rows."""

from __future__ import annotations

import functools
from collections.abc import Callable

import sklearn

from abonyx.arrays import Float64Array
from abonyx.bundle.manifest import Candidate, HeadTraining
from abonyx.input.checked import Input
from abonyx_export.bundle_writer import Report
from abonyx_export.fit.copies import COPIES
from abonyx_export.fit.cross_validation import (
    Fitted,
    Labels,
    choose,
    count_scores,
    cross_validate,
    fit_once,
    table,
)
from abonyx_export.fit.int8_error import cell, choose_for_int8, int8_errors
from abonyx_export.fit.labels import classes_of, rows_sha256, values_of
from abonyx_export.fit.request import DIRECTIONS, REGRESSION, FitRequest
from abonyx_export.fit.ridge import cross_validate_ridge, fit_ridge, ridge_lines
from abonyx_export.head.head import Head

# Embeddings (n, D) -> the head, its record, and the number of iterations.
Train = Callable[[Float64Array, Report], tuple[Head, HeadTraining, int]]


def trainer(request: FitRequest, checked: Input) -> Train:
    """A function that fits a head to the labels of `checked`.

    Raises:
        InputError: the labels cannot be cross-validated.
    """
    if request.task == REGRESSION:
        return functools.partial(_train_values, request, checked, values_of(checked, request))
    return functools.partial(_train_classes, request, checked, classes_of(checked, request))


def _train_classes(
    request: FitRequest, checked: Input, labels: Labels, rows: Float64Array, report: Report
) -> tuple[Head, HeadTraining, int]:
    """Cross-validate, choose C, and fit on all rows; returns a logistic head, its record, and the iterations."""
    positives, repeated = int(labels.sum()), _count_repeated(checked)
    report(
        f"{len(labels)} rows, {positives} of them non-specific{_cut_words(request)}: {request.folds}-fold "
        f"cross-validation, {request.seeds} seeds from {request.seed}; mean +- sd over folds (sd of the seeds' means)"
    )
    _report_repeated(repeated, report)
    if request.vary_ends:
        report(
            f"  each row has {len(COPIES)} changed copies ({', '.join(COPIES)}); the row and its copies together have "
            "the weight of one row"
        )
    fit = functools.partial(fit_once, scale=request.scale, balanced=request.balanced)
    candidates = cross_validate(rows, labels, request.strengths, folds=request.folds, seeds=_seeds(request), fit=fit)
    fitted, c = _choose_c(request, checked, candidates, functools.partial(fit, rows, labels), report)
    training = HeadTraining(
        rows=len(labels),
        positives=positives,
        repeated_sequences=repeated,
        c=c,
        scaled=request.scale,
        copies=list(COPIES) if request.vary_ends else None,
        class_weight="balanced" if request.balanced else None,
        seed=request.seed,
        folds=request.folds,
        seeds=request.seeds,
        candidates=candidates,
        sklearn=sklearn.__version__,
        scores=count_scores(rows, labels, c, folds=request.folds, seed=request.seed, fit=fit),
        cut=request.cut,
    )
    return head_of(request, checked, fitted), training, fitted.iterations


def _train_values(
    request: FitRequest, checked: Input, values: Float64Array, rows: Float64Array, report: Report
) -> tuple[Head, HeadTraining, int]:
    """Cross-validate, choose alpha inside each fold, and fit on all rows; returns a linear head, its record, and 0."""
    repeated, unit = _count_repeated(checked), request.unit or ""
    sd = float(values.std(ddof=1))
    report(
        f"{len(values)} rows, {values.min():g} to {values.max():g} {unit}, sd {sd:.4g}: {request.folds}-fold "
        f"cross-validation, {request.seeds} seeds from {request.seed}; mean over seeds (sd over seeds)"
    )
    _report_repeated(repeated, report)
    alphas = request.strengths
    ridge = cross_validate_ridge(rows, values, alphas, folds=request.folds, seeds=_seeds(request), scale=request.scale)
    for line in ridge_lines(ridge, unit):
        report(line)
    fitted, alpha = fit_ridge(rows, values, alphas, scale=request.scale)
    report(f"fitting on all rows with alpha {alpha:g}")
    training = HeadTraining(
        rows=len(values),
        repeated_sequences=repeated,
        scaled=request.scale,
        class_weight=None,
        seed=request.seed,
        folds=request.folds,
        seeds=request.seeds,
        candidates=[],
        sklearn=sklearn.__version__,
        ridge=ridge,
    )
    return head_of(request, checked, fitted, sd), training, fitted.iterations


def _seeds(request: FitRequest) -> range:
    return range(request.seed, request.seed + request.seeds)


def _count_repeated(checked: Input) -> int:
    return len(checked.records) - len(set(checked.records))


def _report_repeated(repeated: int, report: Report) -> None:
    if repeated:
        report(
            f"  {repeated} rows repeat an earlier row's sequence; if two folds share a sequence, their scores are "
            "too good"
        )


def _cut_words(request: FitRequest) -> str:
    cut = request.cut
    return "" if cut is None else f" ({'above' if cut.above else 'below'} {cut.value:g})"


def _choose_c(
    request: FitRequest,
    checked: Input,
    candidates: list[Candidate],
    refit: Callable[[float], Fitted],
    report: Report,
) -> tuple[Fitted, float]:
    """Report the candidates and choose C; returns the regression on all rows, and C."""
    lines = table(candidates)
    if not any(request.run.bundle.manifest.variants[name].quantization for name in request.kept):
        for line in lines:
            report(line)
        c = choose(candidates).c
        report(f"fitting on all rows with C {c:g}, which has the highest mean ROC AUC")
        return refit(c), c
    fitted = {each.c: refit(each.c) for each in candidates}
    errors = int8_errors(request, {c: head_of(request, checked, regression) for c, regression in fitted.items()})
    report(lines[0])
    for line, each in zip(lines[1:], candidates, strict=True):
        report(f"{line}  {cell(errors[each.c])}")
    c = choose_for_int8(candidates, errors, request.folds).c
    report(
        f"fitting on all rows with C {c:g}: among the values as good as the best, int8 changes the scores least with "
        "this C (docs/int8.md)"
    )
    return fitted[c], c


def head_of(request: FitRequest, checked: Input, fitted: Fitted, training_sd: float | None = None) -> Head:
    """A fitted regression as a head; training_sd is the standard deviation of a linear head's training values."""
    encoder, config = request.run.bundle.manifest.encoder, request.run.config
    return Head(
        coef=fitted.coef,
        intercept=fitted.intercept,
        mean=fitted.mean,
        scale=fitted.scale,
        classes=(0, 1) if training_sd is None else (),
        source_name=request.source_name,
        source_sha256=rows_sha256(checked),
        encoder=encoder.repo_id,
        encoder_revision=encoder.revision,
        pooling=config.pooling,
        pooling_batch_size=config.batch_size,
        sklearn_version=sklearn.__version__,
        name=request.name_of_head,
        unit=request.unit.strip() if request.task == REGRESSION and request.unit else None,
        higher_is_worse=DIRECTIONS[request.direction] if request.direction else True,
        training_sd=training_sd,
        chain_count=len(request.trained_on),
    )
