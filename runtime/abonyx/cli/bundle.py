"""The commands that look and score nothing: doctor, verify, inspect. Their findings go to stdout."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from abonyx.cli.example import example
from abonyx.cli.options import BUNDLE, CONFIG_HELP, PATH
from abonyx.cli.printing import print_columns, print_json, print_rows, print_text
from abonyx.errors import BundleError, ConfigError
from abonyx.hub_name import is_hub_name

if TYPE_CHECKING:
    from abonyx.bundle import Bundle
    from abonyx.bundle.manifest import Calibration, HeadSpec, HeadTraining, Manifest, Parity, Variant
    from abonyx.bundle.panel import Panel
    from abonyx.first_open import EngineUse
    from abonyx.run.verification import Verification


def _bundle(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the bundle, as an argument or, as the commands that score have it, an option: `bundle`."""

    @functools.wraps(command)
    def with_bundle(bundle: str | None, bundle_option: str | None, **others: Any) -> None:
        if bundle and bundle_option and _place(bundle) != _place(bundle_option):
            raise ConfigError(f"BUNDLE is {bundle} and --bundle is {bundle_option}", "Give one of them.")
        command(bundle=bundle_option if bundle is None else bundle, **others)

    option = click.option("--bundle", "bundle_option", type=BUNDLE, help="Another way to give BUNDLE.")
    return click.argument("bundle", required=False, type=BUNDLE)(option(with_bundle))


def _place(bundle: str) -> str:
    """What two ways to name one bundle have in common."""
    return bundle if is_hub_name(bundle) else os.path.realpath(bundle)


_JSON = click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object.")


@click.command(epilog=example("abonyx doctor"))
@_bundle
@click.option(
    "--measure",
    "timed",
    is_flag=True,
    help="Only measure the speed of each variant, in at most 60 s, and print the config lines of the fastest.",
)
@click.option("--again", is_flag=True, help="With --measure: time again what an earlier command has timed.")
@_JSON
def doctor(bundle: str | None, timed: bool, again: bool, as_json: bool) -> None:
    """Show what this machine can run.

    Lists engine, devices and threads, and tries each variant of BUNDLE. Exits with 0 if at least one variant can be
    used here. Without BUNDLE, the bundle is mini, which ships with abonyx.
    """
    from abonyx.cli.doctor import examine
    from abonyx.cli.doctor_text import print_report

    if again and not timed:
        raise ConfigError("--again without --measure", "Give both: only speeds are remembered.")
    report = examine(bundle, timed=timed, again=again)
    if as_json:
        print_json(report)
    else:
        print_report(report)
    sys.exit(report.exit_code)


@click.command(epilog=example("abonyx verify artifacts/mini --deep"))
@_bundle
@click.option("--provider", help="Where the self-test runs: cpu, cuda, coreml or openvino.  [default: cpu]")
@click.option("--variant", help="Variant that the self-test runs.  [default: the bundle's own for the provider]")
@click.option("--config", "config_file", type=PATH, help=CONFIG_HELP)
@click.option(
    "--deep",
    is_flag=True,
    help="Also open the bundle in another process, and list the files and sockets that it holds there.",
)
@_JSON
def verify(
    bundle: str | None, provider: str | None, variant: str | None, config_file: Path | None, deep: bool, as_json: bool
) -> None:
    """Check a bundle's files, and its numbers on this machine.

    Reads every byte of every file of BUNDLE, checks the operators of every graph, and runs the golden rows here.
    Without BUNDLE, the bundle is mini, which ships with abonyx.
    """
    from abonyx.config import load_config
    from abonyx.run.verification import verify as verify_bundle

    flags = {"bundle": bundle, "provider": provider, "variant": variant}
    found = verify_bundle(load_config(config_file, flags=flags), deep=deep)
    if as_json:
        print_json(found)
    else:
        _print_verification(found)


@click.command(epilog=example("abonyx inspect artifacts/mini"))
@_bundle
@_JSON
def inspect(bundle: str | None, as_json: bool) -> None:
    """Show what a bundle is: origin, licence, heads and variants.

    Reads the manifest of BUNDLE and the first line of its card, but does not check the files. Without BUNDLE, the
    bundle is mini, which ships with abonyx.
    """
    from abonyx.bundle import open_bundle
    from abonyx.config import load_config

    opened = open_bundle(load_config(None, flags={"bundle": bundle}).bundle)
    if as_json:
        from abonyx.cli.inspected import inspected

        print_json(inspected(opened))
    else:
        _print_bundle(opened)


def _print_verification(found: Verification) -> None:
    print_rows(
        [
            ("bundle", f"{found.name} ({found.sha256[:12]}), {found.bundle}"),
            ("from the hub", found.hub),
            ("schema", found.schema_version),
            ("hashes", f"{found.files} files, {found.bytes:,} bytes: all as the manifest says"),
            *((f"operators, {name}", operators) for name, operators in found.operators.items()),
            ("self-test", f"{found.golden_rows} golden rows, variant {found.variant} on {found.provider}"),
            ("nodes", found.placement),
            *_held_rows(found.use),
        ]
    )
    print_columns(
        ["metric", "max |difference| from PyTorch", "limit"],
        [[metric, f"{found.differences[metric]:.3g}", f"{limit:g}"] for metric, limit in found.limits.items()],
    )


def _held_rows(use: EngineUse | None) -> list[tuple[str, object]]:
    if use is None:
        return []
    counts = f"{use.sockets} sockets, {use.children} child processes, {use.threads} threads"
    return [("open model holds", f"{len(use.files)} files, {counts}"), ("files", use.files)]


def _print_bundle(bundle: Bundle) -> None:
    from abonyx.bundle.heads import chain_words

    manifest, encoder, head = bundle.manifest, bundle.manifest.encoder, bundle.manifest.head
    origin = encoder.repo_id or "a local directory"
    pooling = head.pooling and head.pooling + (f" (batch {head.pooling_batch_size})" if head.pooling_batch_size else "")
    training, several = head.training, len(manifest.heads) > 1
    print_rows(
        [
            ("bundle", bundle.label()),
            ("path", bundle.path),
            ("from the hub", bundle.hub),
            ("licence", manifest.licence),
            ("encoder", f"{origin}, revision {encoder.revision or 'not recorded'}"),
            ("architecture", f"{encoder.architecture}, {encoder.layers} layers of {encoder.hidden}"),
            ("weights sha256", encoder.weights_sha256),
            ("longest sequence", f"{manifest.max_residues} residues"),
            ("pooling", f"{manifest.pooling}, layers {', '.join(manifest.pooled_layers)}"),
            ("first head" if several else "head", f"{head.name}: {head.kind}, from {head.source_name}"),
            ("head expects", chain_words(head.chains)),
            ("head sha256", head.source_sha256),
            ("head's encoder", head.encoder),
            ("head's pooling", pooling),
            (
                "thresholds",
                None if head.unit else head.thresholds or f"none declared; default {head.default_threshold}",
            ),
            ("fitted on", training and _fitted_on(training)),
            *_stored_rows(manifest),
            *_calibrated_rows(manifest),
            ("cross-validation", training and f"{training.folds} folds, {training.seeds} seeds"),
            *_card_rows(bundle),
            *(("interval" + (f", {each.name}" if several else ""), _around(each)) for each in manifest.heads),
            *(("uncertain calls" + (f", {each.name}" if several else ""), _uncertain(each)) for each in manifest.heads),
            *(("panel", _panel(panel)) for panel in manifest.panels),
            ("golden rows", manifest.golden_source),
            ("made with", manifest.packages),
        ]
    )
    if several:
        print_columns(
            ["head", "gives", "expects", "fitted on", "from"],
            [
                [each.name, _gives(each), chain_words(each.chains), _fitted(each), each.source_name]
                for each in manifest.heads
            ],
        )
    print_columns(
        ["variant", "precision", "size", "for (* default)", "max |dp|", "cosine", "flips", "compared on"],
        [
            [
                name,
                variant.precision,
                f"{_bytes_of(manifest, variant) / 1e6:.1f} MB",
                [one + "*" * (manifest.default_variant.get(one) == name) for one in variant.providers],
                *_parity(variant.parity),
            ]
            for name, variant in manifest.variants.items()
        ],
    )
    print_text("From the manifest; `abonyx verify` checks the files against it.")


def _panel(panel: Panel) -> str:
    """What a panel is, and what it can be compared with."""
    rules = dict.fromkeys(f"{each.variant} with {each.pooling}" for each in panel.scores)
    return f"{panel.name}: {panel.rows} rows of {panel.source}; scores by {', '.join(rules)}"


def _card_rows(bundle: Bundle) -> list[tuple[str, object]]:
    """What each card's first line says, and where the card is; or what is wrong with it: a look at the rest goes on."""
    from abonyx.bundle.listed import CARD_HTML, card_sentence, file_of_head

    rows: list[tuple[str, object]] = []
    heads, first = bundle.manifest.heads, bundle.manifest.head.name
    for head in heads:
        of = f" of {head.name}" if len(heads) > 1 else ""
        try:
            sentence = card_sentence(bundle, head.name)
        except BundleError as error:
            rows.append((f"card{of}", f"cannot be shown: {error.marked[0]}"))
            continue
        if sentence is not None:
            page = bundle.path / file_of_head(CARD_HTML, head.name, first)
            rows += [(f"card{of}", sentence), (f"all of the card{of}", page)]
    return rows


def _uncertain(head: HeadSpec) -> str | None:
    """Which scores get no call but `uncertain`."""
    band = head.training and head.training.band
    return f"p from {band.low:.4g} to {band.high:.4g}, confidence {band.confidence:g}" if band else None


def _around(head: HeadSpec) -> str | None:
    """The interval that is stored of a head's values."""
    found = head.training and head.training.interval
    if not found:
        return None
    return f"value {found.low:+.4g} to {found.high:+.4g} {head.unit}, confidence {found.confidence:g}"


def _fitted(head: HeadSpec) -> str | None:
    """What it was fitted on, if it was."""
    return None if head.training is None else _fitted_on(head.training)


def _gives(head: HeadSpec) -> str:
    """What a head's numbers are."""
    if head.unit is None:
        return f"probability, threshold {head.default_threshold}"
    return f"value in {head.unit}, {'higher' if head.higher_is_worse else 'lower'} is worse"


def _fitted_on(training: HeadTraining) -> str:
    """The rows that a head was fitted on, and how strongly it was regularised."""
    if training.ridge is not None:
        ridge = training.ridge
        return f"{training.rows} rows, alpha {ridge.alpha:g}, Spearman {ridge.spearman_mean:.2f} by random folds"
    cut = training.cut
    classes = f", {'above' if cut.above else 'below'} {cut.value:g}" if cut else ""
    copies = f", each with {len(training.copies)} copies (start cut or longer)" if training.copies else ""
    return f"{training.rows} rows ({training.positives} positive{classes}){copies}, C {training.c:g}"


def _stored_rows(manifest: Manifest) -> list[tuple[str, object]]:
    """Whose training sequences lie in the bundle: who shares it shares them."""
    from abonyx.bundle.listed import file_of_head
    from abonyx.bundle.training_rows import TRAINING_SEQUENCES_NAME

    first = manifest.head.name
    files = {head.name: file_of_head(TRAINING_SEQUENCES_NAME, head.name, first) for head in manifest.heads}
    stored = [f"of head {head} in {file}" for head, file in files.items() if file in manifest.files]
    return [("training sequences", stored)]


def _calibrated_rows(manifest: Manifest) -> list[tuple[str, object]]:
    return [
        ("calibrated" + (f", {head.name}" if len(manifest.heads) > 1 else ""), _calibrated(head.calibration))
        for head in manifest.heads
        if head.calibration is not None
    ]


def _calibrated(found: Calibration) -> str:
    """The slope and intercept of a calibration, and the first of its metrics before and after."""
    metric = "brier" if "brier" in found.before else "mae"
    word = metric.upper() if metric == "mae" else "Brier"
    change = f"{word} {found.before[metric]:.4g} to {found.after[metric]:.4g}"
    line = f"slope {found.slope:.4g}, intercept {found.intercept:.4g}"
    return f"{found.controls} controls of {found.source_name}: {line}, {change}"


def _bytes_of(manifest: Manifest, variant: Variant) -> int:
    """What a variant's folder takes."""
    folder = variant.folder + "/"
    return sum(entry.size_bytes for path, entry in manifest.files.items() if path.startswith(folder))


def _parity(record: Parity | None) -> list[object]:
    """Max |dp|, smallest cosine, label flips, and what was compared."""
    if record is None:
        return ["not checked", "", "", ""]
    engine = f"{record.rows} rows, {record.provider}, ONNX Runtime {record.onnxruntime}, PyTorch {record.torch}"
    return ["" if record.max_p is None else f"{record.max_p:.2g}", f"{record.min_cosine:.6f}", record.flips, engine]
