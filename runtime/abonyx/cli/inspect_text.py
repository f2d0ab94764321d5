"""The text that `abonyx inspect` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from abonyx.cli.printing import print_columns, print_rows, print_text
from abonyx.errors import BundleError

if TYPE_CHECKING:
    from abonyx.bundle import Bundle
    from abonyx.bundle.manifest import Calibration, HeadSpec, HeadTraining, Manifest, Parity, Variant
    from abonyx.bundle.panel import Panel


def print_bundle(bundle: Bundle) -> None:
    """Print the facts of a bundle as rows, and its heads and variants as tables."""
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
            ("head made for encoder", head.encoder),
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
        ["variant", "precision", "size", "for (* default)", "max |dp|", "min cosine", "flips", "compared on"],
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
    """The number of rows of a panel, and the variants and pooling rules that computed its scores."""
    rules = dict.fromkeys(f"{each.variant} with {each.pooling}" for each in panel.scores)
    return f"{panel.name}: {panel.rows} rows of {panel.source}; scores of {', '.join(rules)}"


def _card_rows(bundle: Bundle) -> list[tuple[str, object]]:
    """The first sentence and the file of each card. If a card is damaged, its row says so."""
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
            rows += [(f"card{of}", sentence), (f"whole card{of}", page)]
    return rows


def _uncertain(head: HeadSpec) -> str | None:
    """The range of p in which the call is `uncertain`; None if the head has no such range."""
    band = head.training and head.training.band
    return f"p from {band.low:.4g} to {band.high:.4g}, confidence {band.confidence:g}" if band else None


def _around(head: HeadSpec) -> str | None:
    """The interval around a head's values; None if the bundle stores none."""
    found = head.training and head.training.interval
    if not found:
        return None
    return f"value {found.low:+.4g} to {found.high:+.4g} {head.unit}, confidence {found.confidence:g}"


def _fitted(head: HeadSpec) -> str | None:
    """The rows that a head was fitted on; None if they are not recorded."""
    return None if head.training is None else _fitted_on(head.training)


def _gives(head: HeadSpec) -> str:
    """The kind of numbers that a head gives."""
    if head.unit is None:
        return f"probability, threshold {head.default_threshold}"
    return f"value in {head.unit}, {'higher' if head.higher_is_worse else 'lower'} is worse"


def _fitted_on(training: HeadTraining) -> str:
    """The rows that a head was fitted on, and the strength of its regularisation."""
    if training.ridge is not None:
        ridge = training.ridge
        return f"{training.rows} rows, alpha {ridge.alpha:g}, Spearman {ridge.spearman_mean:.2f} by random folds"
    cut = training.cut
    classes = f", {'above' if cut.above else 'below'} {cut.value:g}" if cut else ""
    copies = f", each with {len(training.copies)} copies (start cut or lengthened)" if training.copies else ""
    return f"{training.rows} rows ({training.positives} positive{classes}){copies}, C {training.c:g}"


def _stored_rows(manifest: Manifest) -> list[tuple[str, object]]:
    """The heads whose training sequences are in the bundle. Whoever shares the bundle shares the sequences."""
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
    """The slope and intercept of a calibration, and one metric before and after."""
    metric = "brier" if "brier" in found.before else "mae"
    word = metric.upper() if metric == "mae" else "Brier"
    change = f"{word} {found.before[metric]:.4g} to {found.after[metric]:.4g}"
    line = f"slope {found.slope:.4g}, intercept {found.intercept:.4g}"
    return f"{found.controls} controls of {found.source_name}: {line}, {change}"


def _bytes_of(manifest: Manifest, variant: Variant) -> int:
    """Size of a variant's folder, in bytes."""
    folder = variant.folder + "/"
    return sum(entry.size_bytes for path, entry in manifest.files.items() if path.startswith(folder))


def _parity(record: Parity | None) -> list[object]:
    """Cells of the table: max |dp|, smallest cosine, number of flipped labels, and what was compared."""
    if record is None:
        return ["not checked", "", "", ""]
    engine = f"{record.rows} rows, {record.provider}, ONNX Runtime {record.onnxruntime}, PyTorch {record.torch}"
    return ["" if record.max_p is None else f"{record.max_p:.2g}", f"{record.min_cosine:.6f}", record.flips, engine]
