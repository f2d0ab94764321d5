"""Export: checkpoint and head in, one checked bundle out, or nothing at all."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import shutil
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np

from abonyx.alphabet import Alphabet
from abonyx.arrays import Float32Array
from abonyx.bundle import Golden, selftest
from abonyx.bundle.manifest import SCHEMA_VERSION, Difference, Manifest, write_manifest
from abonyx.bundle.tolerances import LIMITS, Limits
from abonyx.engine.onnx import import_engine
from abonyx.errors import ConfigError, HeadRefused
from abonyx.wording import option
from abonyx_export import parity
from abonyx_export.bundle_writer import DEFAULT_THRESHOLD, Reference, Report, check_variants, head_spec
from abonyx_export.encoder.checkpoint import Checkpoint, identify, load_checkpoint
from abonyx_export.estimate import describe
from abonyx_export.golden import check_discriminates, golden_sequences, longest_sequence
from abonyx_export.graphs import blank_variant, write_graphs
from abonyx_export.head.head import Head, placeholder_head, read_head
from abonyx_export.int8.calibration import calibration_sequences
from abonyx_export.progress import Show, Steps
from abonyx_export.request import ExportRequest, check_request
from abonyx_export.unfinished import GOLDEN_STEP, Unfinished, export_inputs, resumable
from abonyx_export.variants import INT8, VARIANTS, default_variants

# Licence of Meta's ESM weights, as their model cards state it; of others the exporter must say.
KNOWN_LICENCES = {"facebook/esm": "MIT (ESM weights, Meta)"}
MODULES = ("abonyx", "torch", "transformers", "onnx", "skl2onnx", "sklearn", "scipy", "numpy")


def export_bundle(
    request: ExportRequest, report: Report = lambda line: None, show: Show = lambda step, done, total: None
) -> Manifest:
    """Write the bundle, or raise and leave nothing behind.

    If it is interrupted, what is finished is kept in OUT.partial, and the next call with the same inputs uses it.

    Args:
        request: what to export.
        report: called with a line at each step.
        show: called with how far the step is.

    Returns:
        The manifest, with each variant's parity record.

    Raises:
        ConfigError, InputError, HeadRefused: the request, the checkpoint or the head cannot be used.
        ParityError: a variant over its limit, or a golden set that cannot tell.
        SessionInUse: this process has a session open; the check needs its one slot.
    """
    limits = check_request(request)
    head = read_head(request.head) if request.head else None
    repo_id, commit = identify(request.encoder, request.revision, request.encoder_id)
    if head:
        _check_encoder(head, repo_id, request)
    report(f"loading encoder {repo_id or request.encoder}, {f'commit {commit}' if commit else 'from disk'}")
    checkpoint = load_checkpoint(
        request.encoder,
        revision=commit,
        encoder_id=request.encoder_id,
        pooled_layers=request.pooled_layers,
        on_config=lambda config: report(describe(config, request.variants, request.output)),
    )
    if checkpoint.ignored:
        names = ", ".join(checkpoint.ignored[:3]) + (", ..." if len(checkpoint.ignored) > 3 else "")
        report(f"ignored {len(checkpoint.ignored)} tensors that do not belong to the encoder: {names}")
    if head:
        _check_width(head, checkpoint)
    return _build(request, head, checkpoint, limits, report, show)


def _check_width(head: Head, checkpoint: Checkpoint) -> None:
    width = checkpoint.config.embedding_width
    if len(head.coef) != width:
        raise HeadRefused(
            f"{head.source_name}: {len(head.coef)} features, the encoder's embedding has {width}",
            "Give the head that was trained with this encoder and these pooled layers.",
        )


def _check_encoder(head: Head, repo_id: str | None, request: ExportRequest) -> None:
    """A head belongs to the encoder it was trained with: ESM-1v and ESM-2 have the same width."""
    if head.encoder is None or head.encoder == repo_id or request.allow_encoder_mismatch:
        return
    given = repo_id or f"{request.encoder}, which states no hub id"
    raise HeadRefused(
        f"{head.source_name}: trained with {head.encoder}; the encoder given is {given}",
        f"Give that encoder. If it is a copy of that one, say so with {option('encoder_id')}; to use "
        f"another encoder nevertheless (scores then mean nothing), add {option('allow_encoder_mismatch')}.",
    )


def _build(
    request: ExportRequest,
    head: Head | None,
    checkpoint: Checkpoint,
    limits: dict[str, Limits],
    report: Report,
    show: Show,
) -> Manifest:
    max_residues = _max_residues(request, checkpoint)
    letters = "".join(checkpoint.alphabet.residues)
    sequences, golden_source = golden_sequences(request.golden, max_residues, letters)
    fitted_on = calibration_sequences(request.calibration, max_residues, letters) if INT8 in request.variants else None
    encoder = checkpoint.encoder()
    # the modules' own word: the engine's distribution has another name on a GPU machine
    packages = {name: str(_module(name).__version__) for name in ("onnxruntime", *MODULES)}
    inputs = export_inputs(request, checkpoint, encoder, head, packages, sequences, fitted_on)
    steps = Steps(report, show, checkpoint.config.layers)
    checkpoint = dataclasses.replace(checkpoint, on_layer=steps.at_layer)
    with resumable(request.output, inputs, report) as unfinished:
        staging = unfinished.bundle
        # The last row is compared here only: it reaches every position, and would slow every first open.
        rows = Alphabet(checkpoint.alphabet).encode([*sequences, longest_sequence(max_residues)])
        embedding = _reference(request, checkpoint, rows, unfinished, steps)
        if head is None:
            head = placeholder_head(embedding[:-1])
            steps("no head was given: this bundle embeds; `abonyx fit` gives it a head")
        if request.recentre_head:
            head = head.recentred(-float(np.median(head.logit(embedding[:-1]))))
        pad_id = checkpoint.alphabet.pad_id
        golden = _golden(rows[:-1], embedding[:-1], head, pad_id)
        everything = _golden(rows, embedding, head, pad_id)
        thresholds = {"default": DEFAULT_THRESHOLD, **head.thresholds}
        check_discriminates(golden, thresholds)
        golden.save(staging)

        # fp32 is always built and checked: float16's limits are too wide to tell a subtly wrong graph from rounding.
        names = list(dict.fromkeys([*request.variants, "fp32"]))
        limits = {"fp32": LIMITS["fp32"], **limits}
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=request.name or "",
            notice=request.notice,
            licence=request.licence or _licence(checkpoint),
            encoder=encoder,
            alphabet=checkpoint.alphabet,
            max_residues=max_residues,
            pooling="residues",
            pooled_layers=list(checkpoint.config.pooled_layers),
            embedding_width=checkpoint.config.embedding_width,
            head=head_spec(head, request.chains),
            variants={name: blank_variant(VARIANTS[name], limits[name]) for name in names},
            default_variant=default_variants(list(request.variants)),
            golden_source=golden_source,
            packages=packages,
            files={},
        )
        manifest, detail = write_graphs(
            manifest, head, checkpoint, fitted_on, list(thresholds.values()), unfinished, steps
        )
        rounding = None
        if "fp16" in request.variants:
            rounding = _weight_rounding(checkpoint, rows[:-1], golden, head, unfinished, steps)
        # The weights are on disk now; the check holds one engine's copy and not PyTorch's beside it.
        checkpoint.model.to("meta")
        gc.collect()
        references = _references(manifest, golden, everything, thresholds, rounding)
        if INT8 in references:
            references[INT8] = dataclasses.replace(references[INT8], detail=detail)
        fix = f"Leave the variant out, or allow more with {option('max_dp')} VARIANT=VALUE."
        manifest = check_variants(manifest, references, golden, staging, steps, fix, unfinished)
        return _keep_only(request.variants, manifest, staging)


def _reference(
    request: ExportRequest, checkpoint: Checkpoint, rows: parity.Tokens, unfinished: Unfinished, steps: Steps
) -> Float32Array:
    """PyTorch's embeddings of the golden rows; float16 is refused if their activations come near its end."""
    largest = unfinished.value(GOLDEN_STEP, dict[str, float])
    path = unfinished.reference
    if largest is None:
        steps(f"golden set: {len(rows)} rows through PyTorch")
        with parity.watch_activations(checkpoint.model) as largest, steps.rows(checkpoint.model, len(rows)):
            np.save(path, parity.reference_embeddings(checkpoint, rows))
        unfinished.finish(GOLDEN_STEP, largest, [path])
    halves = [name for name in request.variants if VARIANTS[name].arithmetic == np.float16]
    if halves:
        parity.check_range(largest, halves)
    embedding: Float32Array = np.load(path)
    return embedding


def _references(
    manifest: Manifest,
    golden: Golden,
    everything: Golden,
    thresholds: dict[str, float],
    rounding: dict[str, Difference] | None,
) -> dict[str, Reference]:
    return {
        name: Reference(
            # The longest row has every position; what float16 adds to it says nothing about the graph.
            golden=everything if name == "fp32" else golden,
            thresholds=list(thresholds.values()),
            torch=manifest.packages["torch"],
            transformers=manifest.packages["transformers"],
            rounding=rounding if name == "fp16" else None,
        )
        for name in manifest.variants
    }


def _module(name: str) -> ModuleType:
    return import_engine() if name == "onnxruntime" else importlib.import_module(name)


def _max_residues(request: ExportRequest, checkpoint: Checkpoint) -> int:
    limit = checkpoint.config.max_residues
    if request.max_residues is None:
        return limit
    if not 1 <= request.max_residues <= limit:
        raise ConfigError(f"{option('max_residues')} is {request.max_residues}", f"The encoder takes 1 to {limit}.")
    return request.max_residues


def _golden(rows: parity.Tokens, embedding: Float32Array, head: Head, pad_id: int) -> Golden:
    lengths = np.array([len(row) for row in rows], np.int64)
    input_ids = np.full((len(rows), lengths.max()), pad_id, np.int64)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = row
    coef, intercept = head.weights()
    return Golden(input_ids, lengths, embedding, head.logit(embedding), coef, intercept)


def _weight_rounding(
    checkpoint: Checkpoint,
    rows: parity.Tokens,
    golden: Golden,
    head: Head,
    unfinished: Unfinished,
    steps: Steps,
) -> dict[str, Difference]:
    """What float16 weights alone cost, in PyTorch float32. Rounds the checkpoint's weights for good."""
    step = "fp16 rounding"
    found = unfinished.value(step, dict[str, Difference])
    if found is None:
        steps("float16 weights through PyTorch")
        parity.round_weights(checkpoint.model)
        with steps.rows(checkpoint.model, len(rows)):
            embedding = parity.reference_embeddings(checkpoint, rows)
        logit = head.logit(embedding)
        found = parity.summarise(parity.differences(golden, embedding, logit, selftest.sigmoid(logit)))
        unfinished.finish(step, found, [unfinished.reference])
    return found


def _keep_only(names: tuple[str, ...], manifest: Manifest, staging: Path) -> Manifest:
    """Remove the variants that were built for the check alone, and write the final manifest."""
    for name in manifest.variants.keys() - set(names):
        shutil.rmtree(staging / name)
    manifest = msgspec.structs.replace(
        manifest,
        variants={name: manifest.variants[name] for name in names},
        files={name: entry for name, entry in manifest.files.items() if (staging / name).is_file()},
    )
    write_manifest(manifest, staging)
    return manifest


def _licence(checkpoint: Checkpoint) -> str:
    for prefix, licence in KNOWN_LICENCES.items():
        if (checkpoint.repo_id or "").startswith(prefix):
            return licence
    return "not stated at export"
