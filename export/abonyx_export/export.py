"""Export: checkpoint and head in, one checked bundle out, or nothing at all."""

from __future__ import annotations

import gc
import importlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
from abonyx.tolerances import LIMITS, LOGIT_PER_P, Limits
from abonyx_export import parity
from abonyx_export.checkpoint import Checkpoint, load_checkpoint
from abonyx_export.encoder_graph import ENCODER_INPUTS, write_encoder
from abonyx_export.golden import check_discriminates, golden_sequences
from abonyx_export.head import Head, read_head
from abonyx_export.head_graph import attach_head, check_head, head_model
from abonyx_export.variants import VARIANTS, VariantSpec, default_variants

DEFAULT_THRESHOLD = 0.5  # scikit-learn's own rule for a binary logistic regression
# Licence of Meta's ESM weights, as their model cards state it; of others the exporter must say.
KNOWN_LICENCES = {"facebook/esm": "MIT (ESM weights, Meta)"}
MODULES = ("abonyx", "torch", "transformers", "onnx", "onnxruntime", "skl2onnx", "sklearn", "numpy")


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export.

    Attributes:
        encoder: hub id or directory; revision: of a hub id; encoder_id: hub id that a directory is a copy of.
        head: classifier file.
        output: the bundle's directory; must not exist.
        variants: names of variants.VARIANTS.
        golden: file of sequences; None = the examples and their mutants.
        name: of the bundle; None = the output's name.
        notice: one line shown wherever the bundle is named.
        max_residues: a lower limit than the encoder's.
        allow_encoder_mismatch: use a head with an encoder it does not name.
        recentre_head: move the intercept to median logit 0 on the golden set; for random weights only.
        max_dp: variant -> limit of |dp|; its limits of logit and embedding scale along.
    """

    encoder: str
    head: Path
    output: Path
    revision: str | None = None
    encoder_id: str | None = None
    variants: tuple[str, ...] = ("fp32", "fp16")
    golden: Path | None = None
    name: str | None = None
    notice: str = ""
    licence: str | None = None
    max_residues: int | None = None
    pooled_layers: tuple[str, ...] = ("last",)
    allow_encoder_mismatch: bool = False
    recentre_head: bool = False
    max_dp: Mapping[str, float] = field(default_factory=dict)


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
    limits = _check_request(request)
    head = read_head(request.head)
    checkpoint = load_checkpoint(
        request.encoder,
        revision=request.revision,
        encoder_id=request.encoder_id,
        pooled_layers=request.pooled_layers,
    )
    _check_match(head, checkpoint, request)
    report(f"encoder {checkpoint.repo_id or request.encoder} at {checkpoint.revision or 'no hub revision'}")
    staging = Path(tempfile.mkdtemp(prefix=f".{request.output.name}.", suffix=".partial", dir=request.output.parent))
    try:
        manifest = _build(request, head, checkpoint, limits, staging, report)
        staging.chmod(0o755)  # mkdtemp gives 0700
        staging.rename(request.output)
    except BaseException:
        shutil.rmtree(staging)
        raise
    return manifest


def _check_request(request: ExportRequest) -> dict[str, Limits]:
    """The limits of each variant asked for; refuses what can be refused before any work."""
    for name in (*request.variants, *request.max_dp):
        if name not in VARIANTS:
            raise ConfigError(f"no variant {name!r}", f"Known: {', '.join(VARIANTS)}.")
    if not request.variants:
        raise ConfigError("no variant was asked for", f"Known: {', '.join(VARIANTS)}.")
    if request.output.exists() or request.output.is_symlink():
        raise ConfigError(f"{request.output}: exists already", "Name a new directory, or remove this one.")
    if not request.output.absolute().parent.is_dir():
        raise ConfigError(f"{request.output}: its parent directory does not exist", "Create it first.")
    limits = {}
    for name in request.variants:
        limits[name] = base = LIMITS[name]
        if name in request.max_dp:
            allowed = request.max_dp[name]
            if not 0 < allowed < 1:
                raise ConfigError(f"--max-dp {name}={allowed}", "Give a difference of probability, above 0, below 1.")
            scale = allowed / base.p
            limits[name] = Limits(p=allowed, logit=LOGIT_PER_P * allowed, embedding=base.embedding * scale)
    return limits


def _check_match(head: Head, checkpoint: Checkpoint, request: ExportRequest) -> None:
    """A head belongs to the encoder it was trained with: ESM-1v and ESM-2 have the same width."""
    width = checkpoint.config.embedding_width
    if len(head.coef) != width:
        raise HeadRefused(
            f"{head.source_name}: {len(head.coef)} features, the encoder's embedding has {width}",
            "Give the head that was trained with this encoder and these pooled layers.",
        )
    if head.encoder is None or head.encoder == checkpoint.repo_id or request.allow_encoder_mismatch:
        return
    given = checkpoint.repo_id or f"{request.encoder}, a directory that states no hub id"
    raise HeadRefused(
        f"{head.source_name}: trained with {head.encoder}; the encoder given is {given}",
        "Give that encoder. If the directory is a copy of it, say so with --encoder-id; to use another encoder "
        "nevertheless (scores then mean nothing), add --allow-encoder-mismatch.",
    )


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
    rows = Alphabet(checkpoint.alphabet).encode(sequences)
    report(f"golden set: {len(rows)} rows through PyTorch")
    embedding = parity.reference_embeddings(checkpoint, rows)
    shift = -float(np.median(head.logit(embedding))) if request.recentre_head else 0.0
    head = head.recentred(shift) if shift else head
    golden = _golden(rows, embedding, head, checkpoint.alphabet.pad_id)
    thresholds = {"default": DEFAULT_THRESHOLD, **head.thresholds}
    check_discriminates(golden, thresholds)
    golden.save(staging)

    _write_graphs(request, head, checkpoint, staging, report)
    encoder = checkpoint.encoder()
    rounding = _weight_rounding(checkpoint, rows, golden, head) if "fp16" in request.variants else None
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=request.name or request.output.name,
        notice=request.notice,
        licence=request.licence or _licence(checkpoint),
        encoder=encoder,
        alphabet=checkpoint.alphabet,
        max_residues=max_residues,
        pooling="residues",
        pooled_layers=list(request.pooled_layers),
        embedding_width=checkpoint.config.embedding_width,
        head=_head_spec(head, shift),
        variants={name: _variant(VARIANTS[name], limits[name]) for name in request.variants},
        default_variant=default_variants(list(request.variants)),
        golden_source=golden_source,
        # the modules' own word: the engine's distribution has another name on a GPU machine
        packages={name: str(importlib.import_module(name).__version__) for name in MODULES},
        files={},
    )
    # The weights are on disk now; the check holds one engine's copy and not PyTorch's beside it.
    checkpoint.model.to("meta")
    gc.collect()
    return _check_variants(manifest, golden, thresholds, rounding, staging, report)


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


def _write_graphs(request: ExportRequest, head: Head, checkpoint: Checkpoint, staging: Path, report: Report) -> None:
    head_graph = head_model(head)
    check_head(head_graph, head)
    onnx.save(head_graph, staging / "head.onnx")
    for name in request.variants:
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

            everything = np.arange(len(golden.lengths))
            embedding, logit, p = selftest.run_golden(golden, everything, run, session.token_budget)
            provider = session.config.provider
        parity.enforce(parity.differences(golden, embedding, logit, p), variant.limits, name, provider)
        cost = rounding if name == "fp16" else None
        record = parity.measure(golden, embedding, logit, p, list(thresholds.values()), cost, provider)
        measured[name] = msgspec.structs.replace(variant, parity=record)
        report(
            f"  {name}: max |dp| {record.p.max:.2g}, |dlogit| {record.logit.max:.2g}, cosine {record.min_cosine:.8f}"
        )
    manifest = msgspec.structs.replace(manifest, variants=measured)
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


def _head_spec(head: Head, shift: float) -> HeadSpec:
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
        intercept_shift=shift,
    )


def _licence(checkpoint: Checkpoint) -> str:
    for prefix, licence in KNOWN_LICENCES.items():
        if (checkpoint.repo_id or "").startswith(prefix):
            return licence
    return "not stated at export"
