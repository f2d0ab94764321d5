"""Export: checkpoint and head in, one checked bundle out, or nothing at all."""

from __future__ import annotations

import gc
import importlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from abonyx import selftest
from abonyx.alphabet import Alphabet
from abonyx.bundle import Golden, file_sha256
from abonyx.config import RuntimeConfig
from abonyx.errors import ConfigError, HeadRefused
from abonyx.manifest import (
    SCHEMA_VERSION,
    Difference,
    FileEntry,
    HeadSpec,
    Manifest,
    Variant,
    write_manifest,
)
from abonyx.session import open_session
from abonyx.tolerances import LIMITS, Limits
from abonyx_export import parity
from abonyx_export.checkpoint import Checkpoint, identify, load_checkpoint
from abonyx_export.encoder_graph import ENCODER_INPUTS, write_encoder
from abonyx_export.golden import check_discriminates, golden_sequences, longest_sequence
from abonyx_export.head import Head, read_head
from abonyx_export.head_graph import attach_head, check_head, head_model
from abonyx_export.request import ExportRequest, check_request
from abonyx_export.variants import VARIANTS, VariantSpec, default_variants

DEFAULT_THRESHOLD = 0.5  # scikit-learn's own rule for a binary logistic regression
# Licence of Meta's ESM weights, as their model cards state it; of others the exporter must say.
KNOWN_LICENCES = {"facebook/esm": "MIT (ESM weights, Meta)"}
MODULES = ("abonyx", "torch", "transformers", "onnx", "onnxruntime", "skl2onnx", "sklearn", "numpy")


Report = Callable[[str], None]


def export_bundle(request: ExportRequest, report: Report = lambda line: None) -> Manifest:
    """Write the bundle, or raise and leave nothing behind.

    Args:
        request: what to export.
        report: called with a line at each step.

    Returns:
        The manifest, with each variant's parity record.

    Raises:
        ConfigError, InputError, HeadRefused: the request, the checkpoint or the head cannot be used.
        ParityError: a variant over its limit, or a golden set that cannot tell.
        SessionInUse: this process has a session open; the check needs its one slot.
    """
    limits = check_request(request)
    head = read_head(request.head)
    repo_id, commit = identify(request.encoder, request.revision, request.encoder_id)
    _check_encoder(head, repo_id, request)
    report(f"loading encoder {repo_id or request.encoder}, {f'commit {commit}' if commit else 'a directory'}")
    checkpoint = load_checkpoint(
        request.encoder, revision=commit, encoder_id=request.encoder_id, pooled_layers=request.pooled_layers
    )
    _check_width(head, checkpoint)
    try:
        return _write(request, head, checkpoint, limits, report)
    except OSError as error:
        what = f"{request.output}: cannot be written: {error.strerror or error}"
        raise ConfigError(what, "Nothing was left behind; free some space or name another place.") from error


def _write(
    request: ExportRequest, head: Head, checkpoint: Checkpoint, limits: dict[str, Limits], report: Report
) -> Manifest:
    """Build in a directory beside the output, and rename it once everything was checked."""
    staging = Path(tempfile.mkdtemp(prefix=f".{request.output.name}.", suffix=".partial", dir=request.output.parent))
    try:
        manifest = _build(request, head, checkpoint, limits, staging, report)
        staging.chmod(0o755)  # mkdtemp gives 0700
        staging.rename(request.output)
    except BaseException:
        shutil.rmtree(staging)
        raise
    return manifest


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
    given = repo_id or f"{request.encoder}, a directory that states no hub id"
    raise HeadRefused(
        f"{head.source_name}: trained with {head.encoder}; the encoder given is {given}",
        "Give that encoder. If the directory is a copy of it, say so with --encoder-id; to use another encoder "
        "nevertheless (scores then mean nothing), add --allow-encoder-mismatch.",
    )


def _notice(request: ExportRequest, head: Head, checkpoint: Checkpoint) -> str:
    """The request's notice, and what makes the scores mean nothing: shown wherever the bundle is named."""
    notes = [request.notice] if request.notice else []
    if head.encoder not in (None, checkpoint.repo_id):
        notes.append(f"the head is another encoder's ({head.encoder}): scores mean nothing")
    if head.intercept_shift:
        notes.append(f"benchmark head, intercept moved by {head.intercept_shift:.4g}")
    return "; ".join(notes)


def _build(
    request: ExportRequest,
    head: Head,
    checkpoint: Checkpoint,
    limits: dict[str, Limits],
    staging: Path,
    report: Report,
) -> Manifest:
    max_residues = _max_residues(request, checkpoint)
    sequences, golden_source = golden_sequences(request.golden, max_residues)
    # The last row is compared here only: it reaches every position, and would slow every first open.
    rows = Alphabet(checkpoint.alphabet).encode([*sequences, longest_sequence(max_residues)])
    report(f"golden set: {len(rows)} rows through PyTorch")
    embedding = parity.reference_embeddings(checkpoint, rows)
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
    _write_graphs(names, head, checkpoint, staging, report)
    encoder = checkpoint.encoder()
    rounding = _weight_rounding(checkpoint, rows[:-1], golden, head) if "fp16" in request.variants else None
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=request.name or request.output.name,
        notice=_notice(request, head, checkpoint),
        licence=request.licence or _licence(checkpoint),
        encoder=encoder,
        alphabet=checkpoint.alphabet,
        max_residues=max_residues,
        pooling="residues",
        pooled_layers=list(request.pooled_layers),
        embedding_width=checkpoint.config.embedding_width,
        head=_head_spec(head),
        variants={name: _variant(VARIANTS[name], limits[name]) for name in names},
        default_variant=default_variants(list(request.variants)),
        golden_source=golden_source,
        # the modules' own word: the engine's distribution has another name on a GPU machine
        packages={name: str(importlib.import_module(name).__version__) for name in MODULES},
        files={},
    )
    # The weights are on disk now; the check holds one engine's copy and not PyTorch's beside it.
    checkpoint.model.to("meta")
    gc.collect()
    manifest = _check_variants(manifest, golden, everything, thresholds, rounding, staging, report)
    return _keep_only(request.variants, manifest, staging)


def _max_residues(request: ExportRequest, checkpoint: Checkpoint) -> int:
    limit = checkpoint.config.max_residues
    if request.max_residues is None:
        return limit
    if not 1 <= request.max_residues <= limit:
        raise ConfigError(f"--max-residues is {request.max_residues}", f"The encoder takes 1 to {limit}.")
    return request.max_residues


def _golden(rows: parity.Tokens, embedding: npt.NDArray[np.float32], head: Head, pad_id: int) -> Golden:
    lengths = np.array([len(row) for row in rows], np.int64)
    input_ids = np.full((len(rows), lengths.max()), pad_id, np.int64)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = row
    coef, intercept = head.weights()
    return Golden(input_ids, lengths, embedding, head.logit(embedding), coef, intercept)


def _write_graphs(names: list[str], head: Head, checkpoint: Checkpoint, staging: Path, report: Report) -> None:
    head_graph = head_model(head)
    check_head(head_graph, head)
    onnx.save(head_graph, staging / "head.onnx")
    for name in names:
        report(f"writing {name}")
        path = staging / _variant(VARIANTS[name], LIMITS[name]).model
        path.parent.mkdir()
        spec = VARIANTS[name]
        write_encoder(checkpoint.config, checkpoint.tensor, path, storage=spec.storage, arithmetic=spec.arithmetic)
        # External data stays where it is: the graph alone is read and written again.
        onnx.save(attach_head(onnx.load(path, load_external_data=False), head_graph), path)


def _weight_rounding(checkpoint: Checkpoint, rows: parity.Tokens, golden: Golden, head: Head) -> dict[str, Difference]:
    """What float16 weights alone cost, in PyTorch float32. Rounds the checkpoint's weights for good."""
    parity.round_weights(checkpoint.model)
    embedding = parity.reference_embeddings(checkpoint, rows)
    logit = head.logit(embedding)
    return parity.summarise(parity.differences(golden, embedding, logit, selftest.sigmoid(logit)))


def _check_variants(
    manifest: Manifest,
    golden: Golden,
    everything: Golden,
    thresholds: dict[str, float],
    rounding: dict[str, Difference] | None,
    staging: Path,
    report: Report,
) -> Manifest:
    """Run every variant as a user will, through the runtime's own session, and put its record into the manifest."""
    paths = [path for path in sorted(staging.rglob("*")) if path.is_file()]
    files = {
        path.relative_to(staging).as_posix(): FileEntry(sha256=file_sha256(path), size_bytes=path.stat().st_size)
        for path in paths
    }
    manifest = msgspec.structs.replace(manifest, files=files)
    write_manifest(manifest, staging)
    measured = {}
    for name, variant in manifest.variants.items():
        report(f"checking {name} against PyTorch")
        with open_session(RuntimeConfig(bundle=str(staging), variant=name), self_test="off") as session:

            def run(tokens: parity.Tokens) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
                embedding, p = session.run_batch(tokens)
                return embedding, p

            # The longest row has every position; what float16 adds to it says nothing about the graph.
            rows = everything if name == "fp32" else golden
            embedding, logit, p = selftest.run_golden(rows, np.arange(len(rows.lengths)), run, session.token_budget)
            provider = session.config.provider
            parity.enforce(parity.differences(rows, embedding, logit, p), variant.limits, name, provider)
            selftest.check_quick(golden, run, variant.limits, f"variant {name} on {provider}")
        cost = rounding if name == "fp16" else None
        record = parity.measure(rows, embedding, logit, p, list(thresholds.values()), cost, provider)
        measured[name] = msgspec.structs.replace(variant, parity=record)
        report(
            f"  {name}: max |dp| {record.p.max:.2g}, |dlogit| {record.logit.max:.2g}, cosine {record.min_cosine:.8f}"
        )
    return msgspec.structs.replace(manifest, variants=measured)


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


def _variant(spec: VariantSpec, limits: Limits) -> Variant:
    return Variant(
        model=f"{spec.name}/model.onnx",
        precision=spec.name,
        inputs=list(ENCODER_INPUTS),
        providers=list(spec.providers),
        limits=limits,
        parity=None,
    )


def _head_spec(head: Head) -> HeadSpec:
    return HeadSpec(
        kind="logistic",
        classes=[float(label) for label in head.classes],
        source_name=head.source_name,
        source_sha256=head.source_sha256,
        encoder=head.encoder,
        pooling=head.pooling,
        pooling_batch_size=head.pooling_batch_size,
        thresholds=head.thresholds,
        default_threshold=DEFAULT_THRESHOLD,
        intercept_shift=head.intercept_shift,
    )


def _licence(checkpoint: Checkpoint) -> str:
    for prefix, licence in KNOWN_LICENCES.items():
        if (checkpoint.repo_id or "").startswith(prefix):
            return licence
    return "not stated at export"
