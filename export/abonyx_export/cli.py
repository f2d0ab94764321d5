"""`abonyx export` and `abonyx fit`; `abonyx calibrate` is in calibrate/cli.py. Heavy imports wait until they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from abonyx.cli.example import example
from abonyx.cli.options import BUNDLE_OUTPUT_HELP, PATH, PATH_OR_DASH, prepare, run_options
from abonyx.errors import ConfigError
from abonyx.extras import require
from abonyx.logs import LOGGER
from abonyx_export.calibrate.cli import calibrate
from abonyx_export.help_texts import CACHE_HELP, LABEL_HELP, NAME_HELP, NOTICE_HELP

__all__ = ["calibrate", "export", "fit"]

# A copy of manifest.CHAINS: importing that module would import numpy.
_CHAINS = ("H", "L")
_BOTH = "H,L"
_CHAINS_HELP = "Chain of the head's training set, H or L. Records of other chains are flagged when scored."


def _pairs(values: tuple[str, ...]) -> dict[str, float]:
    pairs = {}
    for value in values:
        name, _, number = value.partition("=")
        try:
            pairs[name] = float(number)
        except ValueError as error:
            raise ConfigError(f"--max-dp {value}: not VARIANT=VALUE", "Give e.g. fp16=0.01.") from error
    return pairs


def _names(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _numbers(value: str, flag: str, example: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _names(value))
    except ValueError as error:
        raise ConfigError(f"{flag} {value}: {error}", f"Give numbers above 0, e.g. {example}.") from error


@click.command(epilog=example("abonyx export --encoder facebook/esm1v_t33_650M_UR90S_1 -o artifacts/esm1v"))
@click.option(
    "--encoder",
    required=True,
    metavar="ID_OR_PATH",
    help="Hugging Face hub id, directory of an ESM or BERT encoder, or .pt file of fair-esm.",
)
@click.option("--revision", help="Branch, tag or commit of the hub id; the commit is recorded.  [default: main]")
@click.option("--encoder-id", metavar="ID", help="Hub id, if --encoder is a local copy of a hub repository.")
@click.option(
    "--head",
    "heads",
    multiple=True,
    metavar="[NAME=]FILE",
    help="Logistic head: .npz (and its .json), .joblib or .pkl; code in the file never runs. Repeat the option for "
    "more heads; the first is the default.  [default: none; `abonyx fit` adds one]",
)
@click.option("-o", "--output", required=True, type=PATH, help=BUNDLE_OUTPUT_HELP)
@click.option(
    "--variants",
    default="fp32,fp16",
    show_default=True,
    help="Variants to write: any of fp32, fp16, fp16-weights, int8, cuda-fp16.",
)
@click.option(
    "--calibration",
    type=PATH,
    help="File of antibody sequences to calibrate int8 on.  [default: 2,048 sequences that ship with abonyx]",
)
@click.option(
    "--golden",
    type=PATH,
    help="File of sequences to check the bundle on.  [default: example sequences, mutants of them, and "
    "antibodies that ship with abonyx]",
)
@click.option("--name", help=NAME_HELP)
@click.option("--notice", default="", help="One line shown wherever the bundle is named.")
@click.option("--licence", help="Licence of the weights.  [default: for facebook/esm*, the licence of Meta's weights]")
@click.option("--max-residues", type=int, help="Length of the longest accepted sequence.  [default: the encoder's]")
@click.option("--chains", type=click.Choice(list(_CHAINS)), default="H", show_default=True, help=_CHAINS_HELP)
@click.option(
    "--pooled-layers",
    default="last",
    show_default=True,
    help="Layers to pool: embedding, last, or numbers, e.g. 4,8. The means of several layers are concatenated.",
)
@click.option("--allow-encoder-mismatch", is_flag=True, help="Accept a head that was trained with another encoder.")
@click.option(
    "--recentre-head", is_flag=True, help="Shift the head so that the median logit is 0; only for random weights."
)
@click.option(
    "--max-dp",
    multiple=True,
    metavar="VARIANT=VALUE",
    help="Largest allowed difference of p from PyTorch.  [default: 1e-4 for fp32, 0.02 for int8, 5e-3 for the others]",
)
def export(
    encoder: str,
    revision: str | None,
    encoder_id: str | None,
    heads: tuple[str, ...],
    output: Path,
    variants: str,
    calibration: Path | None,
    golden: Path | None,
    name: str | None,
    notice: str,
    licence: str | None,
    max_residues: int | None,
    chains: str,
    pooled_layers: str,
    allow_encoder_mismatch: bool,
    recentre_head: bool,
    max_dp: tuple[str, ...],
) -> None:
    """Turn an encoder and logistic heads into a bundle.

    The command checks each variant against PyTorch. It needs the optional extra `export`.
    """
    require("export")
    from abonyx_export.export import export_bundle
    from abonyx_export.progress import step_bar
    from abonyx_export.request import ExportRequest, named_head

    request = ExportRequest(
        encoder=encoder,
        revision=revision,
        encoder_id=encoder_id,
        heads=tuple(map(named_head, heads)),
        output=output,
        variants=_names(variants),
        golden=golden,
        name=name,
        notice=notice,
        licence=licence,
        max_residues=max_residues,
        chains=(chains,),
        pooled_layers=_names(pooled_layers.replace("+", ",")),
        allow_encoder_mismatch=allow_encoder_mismatch,
        recentre_head=recentre_head,
        max_dp=_pairs(max_dp),
        calibration=calibration,
    )
    with step_bar() as show:
        export_bundle(request, LOGGER.info, show)
    LOGGER.info(f"wrote {output}; the head expects chain {chains}")


@click.command(epilog=example("abonyx fit examples/labelled.csv -o refit"))
@click.argument("source", metavar="INPUT", type=PATH_OR_DASH)
@click.option("--label-column", default="label", show_default=True, help=LABEL_HELP)
@click.option("-o", "--output", required=True, type=PATH, help=BUNDLE_OUTPUT_HELP)
@run_options
@click.option(
    "--task",
    type=click.Choice(["classification", "regression"]),
    default="classification",
    show_default=True,
    help="classification: labels 0 (specific) and 1 (non-specific); regression: measured values.",
)
@click.option("--add", is_flag=True, help="Keep the bundle's heads unchanged, and add the new head.")
@click.option("--head-name", metavar="NAME", help="Name of the head.  [default: nonspecificity]")
@click.option("--unit", help="Regression: unit of the values, e.g. mg/mL.")
@click.option("--direction", metavar="higher-is-worse|lower-is-worse", help="Regression: which values are worse.")
@click.option("--positive-above", type=float, metavar="T", help="Turn values into classes: non-specific above T.")
@click.option("--positive-below", type=float, metavar="T", help="Turn values into classes: non-specific below T.")
@click.option(
    "--chains",
    type=click.Choice([*_CHAINS, _BOTH]),
    help=f"{_CHAINS_HELP} H,L: each row is a pair.  [default: H; with --add the bundle's]",
)
@click.option(
    "--vary-ends",
    is_flag=True,
    help="Also fit on copies whose start is cut or longer. Then fewer calls change if a start changes.",
)
@click.option("--drop-flagged", is_flag=True, help="Leave out rows that `score` would flag; nanobody-like rows stay.")
@click.option("--C", "grid", help="Inverse regularisation strengths to choose from.  [default: 0.01,0.1,1,10]")
@click.option(
    "--alpha", "alphas", help="Regression: regularisation strengths to choose from.  [default: 0.1,1,...,10000]"
)
@click.option(
    "--scale/--no-scale", default=False, show_default=True, help="Scale each column of the embedding before the fit."
)
@click.option(
    "--class-weight",
    type=click.Choice(["none", "balanced"]),
    default="none",
    show_default=True,
    help="balanced: both classes have the same weight in the fit; none: all rows have the same weight.",
)
@click.option("--cv", "folds", type=int, default=10, show_default=True, help="Folds of each cross-validation.")
@click.option("--cv-seeds", "seeds", type=int, default=5, show_default=True, help="Number of cross-validations.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the first cross-validation.")
@click.option(
    "--confidence",
    type=float,
    default=0.8,
    show_default=True,
    help="Wanted share of each class without a wrong call or, for a regression, of values inside their "
    "interval; measured out of fold.",
)
@click.option("--name", help=NAME_HELP)
@click.option("--notice", help=NOTICE_HELP)
@click.option("--variants", help="Variants of the bundle to keep.  [default: all]")
@click.option("--embedding-cache", type=PATH, help=CACHE_HELP)
@click.option(
    "--head-out",
    type=PATH,
    help="Also write the head as .npz, in the layout of the old pipeline (see docs/migrating.md).",
)
@click.option(
    "--store-sequences", is_flag=True, help="Keep the training sequences in the bundle, for column nearest_identity."
)
def fit(
    source: Path,
    label_column: str,
    output: Path,
    task: Literal["classification", "regression"],
    add: bool,
    head_name: str | None,
    unit: str | None,
    direction: str | None,
    positive_above: float | None,
    positive_below: float | None,
    grid: str | None,
    alphas: str | None,
    scale: bool,
    class_weight: str,
    folds: int,
    seeds: int,
    seed: int,
    confidence: float,
    chains: str | None,
    vary_ends: bool,
    drop_flagged: bool,
    name: str | None,
    notice: str | None,
    variants: str | None,
    embedding_cache: Path | None,
    head_out: Path | None,
    store_sequences: bool,
    **options: Any,
) -> None:
    """Fit a new head on your labelled sequences.

    INPUT is a file as for `score`, with a column of labels; - is stdin. The command writes a bundle with the new
    head. It needs the optional extra `fit`, and no PyTorch.
    """
    require("fit")
    from abonyx.bundle.heads import chain_words
    from abonyx_export.fit.fit import fit_bundle
    from abonyx_export.fit.request import FitRequest

    request = FitRequest(
        run=prepare(options),
        source=None if str(source) == "-" else source,
        label_column=label_column,
        output=output,
        task=task,
        add=add,
        head_name=head_name,
        unit=unit,
        direction=direction,
        positive_above=positive_above,
        positive_below=positive_below,
        grid=None if grid is None else _numbers(grid, "--C", "0.01,0.1,1,10"),
        alphas=None if alphas is None else _numbers(alphas, "--alpha", "1,10,100"),
        scale=scale,
        balanced=class_weight == "balanced",
        folds=folds,
        seeds=seeds,
        seed=seed,
        confidence=confidence,
        chains=None if chains is None else tuple(chains.split(",")),
        vary_ends=vary_ends,
        drop_flagged=drop_flagged,
        name=name,
        notice=notice,
        variants=None if variants is None else _names(variants),
        embedding_cache=embedding_cache,
        head_out=head_out,
        store_sequences=store_sequences,
    )
    head = fit_bundle(request, LOGGER.info).heads[-1]
    use = f"values in {head.unit}" if head.unit else f"threshold {head.default_threshold:g}"
    LOGGER.info(
        f"wrote {output}; the head expects {chain_words(head.chains)}; {use}"
        + (f"; score it with --heads {head.name}" if add else "")
        + (f"; head also in {head_out}" if head_out else "")
    )
