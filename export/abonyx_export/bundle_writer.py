"""What every bundle is put through, exported or fitted: built beside its place, run as a user will, then renamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from abonyx.arrays import Float32Array
from abonyx.bundle import Golden, selftest
from abonyx.bundle.manifest import (
    MANIFEST_NAME,
    Difference,
    FileEntry,
    HeadSpec,
    HeadTraining,
    Manifest,
    Parity,
    Variant,
    read_manifest,
    write_manifest,
)
from abonyx.config import RuntimeConfig
from abonyx.hashing import file_sha256
from abonyx.model import open_model
from abonyx_export import parity
from abonyx_export.head.head import Head

DEFAULT_THRESHOLD = 0.5  # scikit-learn's own rule for a binary logistic regression

Report = Callable[[str], None]


class Known(Protocol):
    """Records of variants that outlive an interrupted call."""

    def parity(self, variant: str) -> Parity | None:
        """The record, None if the variant was not checked."""

    def keep(self, variant: str, record: Parity) -> None:
        """Take a record."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What one variant is compared with.

    Attributes:
        golden: PyTorch's rows.
        thresholds: those at which label flips are counted.
        torch, transformers: the versions that made `golden`.
        rounding: see manifest.Parity.weight_rounding.
        detail: what else an error about it says.
    """

    golden: Golden
    thresholds: Sequence[float]
    torch: str
    transformers: str
    rounding: dict[str, Difference] | None = None
    detail: str = ""


def head_spec(head: Head, chains: Sequence[str], training: HeadTraining | None = None) -> HeadSpec:
    """The manifest's description of a head.

    Args:
        chains: of its training set; keys of manifest.CHAINS.
    """
    return HeadSpec(
        kind="logistic",
        classes=[float(label) for label in head.classes],
        chains=list(chains),
        source_name=head.source_name,
        source_sha256=head.source_sha256,
        encoder=head.encoder,
        pooling=head.pooling,
        pooling_batch_size=head.pooling_batch_size,
        thresholds=head.thresholds,
        default_threshold=DEFAULT_THRESHOLD,
        intercept_shift=head.intercept_shift,
        training=training,
        placeholder=head.placeholder,
    )


def check_variants(
    manifest: Manifest,
    references: Mapping[str, Reference],
    golden: Golden,
    staging: Path,
    report: Report,
    fix: str,
    known: Known | None = None,
) -> Manifest:
    """Run every variant as a user will, through the runtime's own session; nothing is written but the manifest.

    Args:
        references: variant -> what it is compared with.
        golden: the rows that golden.npz holds.
        fix: what to do about a variant over its limit.
        known: variants that were checked before, and what is told of those that are now.

    Returns:
        The manifest with every file and each variant's record, as it was written to `staging`.

    Raises:
        ParityError: a variant over its limit.
    """
    # The CPU runs every graph here, also those that are for a card: there the self-test runs the golden rows again.
    variants = manifest.variants
    on_cpu = {name: msgspec.structs.replace(variant, providers=["cpu"]) for name, variant in variants.items()}
    # the session reads it
    manifest = list_files(msgspec.structs.replace(manifest, variants=on_cpu), staging)
    measured = {}
    for number, (name, variant) in enumerate(variants.items(), 1):
        record = known.parity(name) if known else None
        if record is None:
            report(f"checking {name} against PyTorch ({number} of {len(variants)})")
            record = _checked(name, variant, references[name], golden, staging, fix)
            if known:
                known.keep(name, record)
        measured[name] = msgspec.structs.replace(variant, parity=record)
        report(
            f"  {name}: max |dp| {record.p.max:.2g}, |dlogit| {record.logit.max:.2g}, cosine {record.min_cosine:.8f}"
        )
    manifest = msgspec.structs.replace(manifest, variants=measured)
    write_manifest(manifest, staging)
    read_manifest(staging)  # what cannot be read back must not be given a name
    return manifest


def list_files(manifest: Manifest, staging: Path) -> Manifest:
    """Write the manifest with an entry for every file there is; returns it."""
    paths = [path for path in sorted(staging.rglob("*")) if path.is_file() and path.name != MANIFEST_NAME]
    files = {
        path.relative_to(staging).as_posix(): FileEntry(sha256=file_sha256(path), size_bytes=path.stat().st_size)
        for path in paths
    }
    manifest = msgspec.structs.replace(manifest, files=files)
    write_manifest(manifest, staging)
    return manifest


def _checked(name: str, variant: Variant, reference: Reference, golden: Golden, staging: Path, fix: str) -> Parity:
    """One variant's record."""
    with open_model(RuntimeConfig(bundle=str(staging), variant=name), self_test="off") as session:

        def run(tokens: parity.Tokens) -> tuple[Float32Array, Float32Array]:
            embedding, p = session.run_batch(tokens)
            return embedding, p

        rows = reference.golden
        embedding, logit, p = selftest.run_golden(rows, np.arange(len(rows.lengths)), run, session.budget.tokens)
        provider = session.config.provider
        parity.enforce(
            parity.differences(rows, embedding, logit, p), variant.limits, name, provider, reference.detail, fix
        )
        selftest.check_quick(golden, run, variant.limits, f"variant {name} on {provider}")
    return parity.measure(
        rows,
        embedding,
        logit,
        p,
        reference.thresholds,
        reference.rounding,
        provider=provider,
        torch=reference.torch,
        transformers=reference.transformers,
    )
