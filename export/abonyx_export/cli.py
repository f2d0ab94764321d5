"""`abonyx export`. Imports nothing heavy until it runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from abonyx.errors import ConfigError

_NEEDED = ("torch", "transformers", "onnx", "skl2onnx", "sklearn", "scipy")
_POOLED = {"last": ("last",), "embedding+last": ("embedding", "last")}
_PATH = click.Path(path_type=Path)


def _require_extra() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"abonyx export needs {', '.join(missing)}, not installed here",
            'On the exporting machine: pip install "abonyx[cpu,export]". Scoring needs none of it.',
        )


def _pairs(values: tuple[str, ...]) -> dict[str, float]:
    pairs = {}
    for value in values:
        name, _, number = value.partition("=")
        try:
            pairs[name] = float(number)
        except ValueError as error:
            raise ConfigError(f"--max-dp {value}", "Give VARIANT=VALUE, e.g. fp16=0.01.") from error
    return pairs


@click.command()
@click.option("--encoder", required=True, metavar="ID_OR_DIR", help="Hugging Face ESM encoder: hub id or directory.")
@click.option("--revision", help="Branch, tag or commit of the hub id; the commit is recorded.  [default: main]")
@click.option("--encoder-id", metavar="ID", help="The hub id that the directory is a copy of.")
@click.option("--head", required=True, type=_PATH, help="Logistic head: .npz (+ .json), .joblib or .pkl; never run.")
@click.option("-o", "--output", required=True, type=_PATH, help="Bundle directory to write; must not exist.")
@click.option("--variants", default="fp32,fp16", show_default=True, help="Of fp32, fp16, fp16-weights.")
@click.option("--golden", type=_PATH, help="Sequences to check on.  [default: examples and mutants of them]")
@click.option("--name", help="Name of the bundle.  [default: OUTPUT's]")
@click.option("--notice", default="", help="One line shown wherever the bundle is named.")
@click.option("--licence", help="Licence of the weights.  [default: known for facebook/esm*]")
@click.option("--max-residues", type=int, help="Refuse longer sequences.  [default: the encoder's positions]")
@click.option("--pooled-layers", type=click.Choice(list(_POOLED)), default="last", show_default=True)
@click.option("--allow-encoder-mismatch", is_flag=True, help="Use a head trained with another encoder.")
@click.option("--recentre-head", is_flag=True, help="Benchmarks on random weights only: median logit 0.")
@click.option("--max-dp", multiple=True, metavar="VARIANT=VALUE", help="Limit of |dp|.  [fp32=1e-4, fp16=5e-3]")
def export(
    encoder: str,
    revision: str | None,
    encoder_id: str | None,
    head: Path,
    output: Path,
    variants: str,
    golden: Path | None,
    name: str | None,
    notice: str,
    licence: str | None,
    max_residues: int | None,
    pooled_layers: str,
    allow_encoder_mismatch: bool,
    recentre_head: bool,
    max_dp: tuple[str, ...],
) -> None:
    """Turn an ESM encoder and a logistic head into a bundle, checked against PyTorch."""
    _require_extra()
    from abonyx_export.export import export_bundle
    from abonyx_export.request import ExportRequest

    request = ExportRequest(
        encoder=encoder,
        revision=revision,
        encoder_id=encoder_id,
        head=head,
        output=output,
        variants=tuple(part.strip() for part in variants.split(",") if part.strip()),
        golden=golden,
        name=name,
        notice=notice,
        licence=licence,
        max_residues=max_residues,
        pooled_layers=_POOLED[pooled_layers],
        allow_encoder_mismatch=allow_encoder_mismatch,
        recentre_head=recentre_head,
        max_dp=_pairs(max_dp),
    )
    export_bundle(request, lambda line: click.echo(line, err=True))
    click.echo(f"wrote {output}", err=True)
