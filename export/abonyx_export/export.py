"""Export: turn a checkpoint and heads into one checked bundle, or write nothing."""

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
from abonyx.bundle import Golden
from abonyx.bundle.heads import sigmoid
from abonyx.bundle.manifest import SCHEMA_VERSION, Difference, Manifest, write_manifest
from abonyx.bundle.tolerances import LIMITS, Limits
from abonyx.engine.onnx import import_engine
from abonyx.errors import ConfigError, HeadRefused
from abonyx.wording import option
from abonyx_export import parity
from abonyx_export.bundle_writer import Reference, Report, check_variants
from abonyx_export.encoder.checkpoint import Checkpoint, identify, load_checkpoint
from abonyx_export.estimate import describe
from abonyx_export.golden import check_discriminates, golden_sequences, longest_sequence
from abonyx_export.graphs import blank_variant, write_graphs
from abonyx_export.head.graph import common_mean
from abonyx_export.head.head import Head, placeholder_head, read_head
from abonyx_export.head.spec import DEFAULT_THRESHOLD, golden_of, head_spec, sums_intercept
from abonyx_export.int8.calibration import calibration_sequences
from abonyx_export.progress import Show, Steps
from abonyx_export.request import ExportRequest, check_request
from abonyx_export.unfinished import GOLDEN_STEP, Unfinished, export_inputs, resumable
from abonyx_export.variants import INT8, VARIANTS, default_variants

# Licence of Meta's ESM weights, from their model cards. For other weights the user gives the licence.
KNOWN_LICENCES = {"facebook/esm": "MIT (ESM weights, Meta)"}
MODULES = ("abonyx", "torch", "transformers", "onnx", "sklearn", "scipy", "numpy")


def export_bundle(
    request: ExportRequest, report: Report = lambda line: None, show: Show = lambda step, done, total: None
) -> Manifest:
    """Write the bundle, or raise and leave nothing behind.

    An interrupted export keeps its finished steps in OUT.partial, and the next call with the same inputs uses them.

    Args:
        request: what to export.
        report: called with a line at each step.
        show: called with the progress of the step.

    Returns:
        The manifest, with each variant's parity record.

    Raises:
        ConfigError, InputError, HeadRefused: the request, the checkpoint or the head cannot be used.
        ParityError: a variant is over its limit, or the golden set cannot detect a wrong encoder.
        SessionInUse: this process has an open session; the check needs the process's only session.
    """
    limits = check_request(request)
    heads = [dataclasses.replace(read_head(path), name=name) for name, path in request.heads]
    repo_id, commit = identify(request.encoder, request.revision, request.encoder_id)
    for head in heads:
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
    for head in heads:
        _check_width(head, checkpoint)
    return _build(request, heads, checkpoint, limits, report, show)


def _check_width(head: Head, checkpoint: Checkpoint) -> None:
    width = checkpoint.config.embedding_width
    if len(head.coef) != width:
        raise HeadRefused(
            f"{head.source_name}: the head has {len(head.coef)} features, the encoder's embedding has {width}",
            "Give the head that was trained with this encoder and these pooled layers.",
        )


def _check_encoder(head: Head, repo_id: str | None, request: ExportRequest) -> None:
    """Refuse a head that names another encoder. The width cannot show this: ESM-1v and ESM-2 have the same width."""
    if head.encoder is None or head.encoder == repo_id or request.allow_encoder_mismatch:
        return
    given = repo_id or f"{request.encoder}, whose hub id is not known"
    raise HeadRefused(
        f"{head.source_name}: the head was trained with {head.encoder}; the given encoder is {given}",
        f"Give the encoder {head.encoder}. If {request.encoder} is a copy of it, add {option('encoder_id')} "
        f"{head.encoder}. To use another encoder anyway (the scores then mean nothing), add "
        f"{option('allow_encoder_mismatch')}.",
    )


def _build(
    request: ExportRequest,
    heads: list[Head],
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
    # Versions come from the modules: on a GPU machine the engine's distribution has another name.
    packages = {name: str(_module(name).__version__) for name in ("onnxruntime", *MODULES)}
    inputs = export_inputs(request, checkpoint, encoder, heads, packages, sequences, fitted_on)
    steps = Steps(report, show, checkpoint.config.layers)
    checkpoint = dataclasses.replace(checkpoint, on_layer=steps.at_layer)
    with resumable(request.output, inputs, report) as unfinished:
        staging = unfinished.bundle
        # The last row reaches every position. It is only checked here: in golden.npz it would slow the first opening on
        # every machine.
        rows = Alphabet(checkpoint.alphabet).encode([*sequences, longest_sequence(max_residues)])
        embedding = _reference(request, checkpoint, rows, unfinished, steps)
        if not heads:
            heads = [placeholder_head(embedding[:-1])]
            steps("no head was given: this bundle can only embed; `abonyx fit` adds a head")
        if request.recentre_head:
            heads = [head.recentred(-float(np.median(head.logit(embedding[:-1])))) for head in heads]
        pad_id, mean = checkpoint.alphabet.pad_id, common_mean(heads, embedding[:-1])
        golden = _golden(rows[:-1], embedding[:-1], heads, mean, pad_id)
        everything = _golden(rows, embedding, heads, mean, pad_id)
        check_discriminates(golden, {"default": DEFAULT_THRESHOLD, **heads[0].thresholds})
        golden.save(staging)

        # fp32 is always built and checked: within float16's wide limits, a slightly wrong graph looks like rounding.
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
            heads=[head_spec(head, request.chains, sums_intercept(head, mean)) for head in heads],
            variants={name: blank_variant(VARIANTS[name], limits[name]) for name in names},
            default_variant=default_variants(list(request.variants)),
            golden_source=golden_source,
            packages=packages,
            files={},
        )
        manifest, detail = write_graphs(manifest, heads, mean, checkpoint, fitted_on, unfinished, steps)
        rounding = None
        if "fp16" in request.variants:
            rounding = _weight_rounding(checkpoint, rows[:-1], golden, heads[0], unfinished, steps)
        # The weights are on disk now. Without PyTorch's copy, the check needs memory for the engine's copy only.
        checkpoint.model.to("meta")
        gc.collect()
        references = _references(manifest, golden, everything, rounding)
        if INT8 in references:
            references[INT8] = dataclasses.replace(references[INT8], detail=detail)
        fix = f"Leave the variant out, or allow a larger difference with {option('max_dp')} VARIANT=VALUE."
        manifest = check_variants(manifest, references, golden, staging, steps, fix, unfinished)
        return _keep_only(request.variants, manifest, staging)


def _reference(
    request: ExportRequest, checkpoint: Checkpoint, rows: parity.Tokens, unfinished: Unfinished, steps: Steps
) -> Float32Array:
    """PyTorch's embeddings of the golden rows (n, D); refuses float16 if activations come near the largest float16."""
    largest = unfinished.value(GOLDEN_STEP, dict[str, float])
    path = unfinished.reference
    if largest is None:
        steps(f"running {len(rows)} golden rows through PyTorch")
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
    rounding: dict[str, Difference] | None,
) -> dict[str, Reference]:
    return {
        name: Reference(
            # The longest row checks every position. fp32 is enough for that: float16 adds only rounding.
            golden=everything if name == "fp32" else golden,
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
        what = f"{option('max_residues')} is {request.max_residues}; the encoder takes sequences of 1 to {limit}"
        raise ConfigError(what, f"Give a number from 1 to {limit}.")
    return request.max_residues


def _golden(rows: parity.Tokens, embedding: Float32Array, heads: list[Head], mean: Float32Array, pad_id: int) -> Golden:
    lengths = np.array([len(row) for row in rows], np.int64)
    input_ids = np.full((len(rows), lengths.max()), pad_id, np.int64)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = row
    return golden_of(input_ids, lengths, embedding, heads, mean)


def _weight_rounding(
    checkpoint: Checkpoint,
    rows: parity.Tokens,
    golden: Golden,
    head: Head,
    unfinished: Unfinished,
    steps: Steps,
) -> dict[str, Difference]:
    """The error of float16 weights alone, measured in PyTorch float32. This rounds the checkpoint's weights."""
    step = "fp16 rounding"
    found = unfinished.value(step, dict[str, Difference])
    if found is None:
        steps("running float16 weights through PyTorch")
        parity.round_weights(checkpoint.model)
        with steps.rows(checkpoint.model, len(rows)):
            embedding = parity.reference_embeddings(checkpoint, rows)
        logit, expected = head.logit(embedding), golden.value[:, 0]
        found = {
            "embedding": parity.summarise(np.abs(embedding - golden.embedding.astype(np.float64))),
            "logit": parity.summarise(np.abs(logit - expected)),
            "p": parity.summarise(np.abs(sigmoid(logit) - sigmoid(expected))),
        }
        unfinished.finish(step, found, [unfinished.reference])
    return found


def _keep_only(names: tuple[str, ...], manifest: Manifest, staging: Path) -> Manifest:
    """Remove the variants that were only built for the check, and write the final manifest."""
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
