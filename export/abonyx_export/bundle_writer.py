"""The check of every new bundle, exported or fitted: each variant runs as it will run for a user."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from abonyx.arrays import Float32Array
from abonyx.bundle import Golden, selftest
from abonyx.bundle.heads import CONTRIBUTIONS, EMBEDDING, HEAD_SUMS
from abonyx.bundle.manifest import (
    MANIFEST_NAME,
    Difference,
    FileEntry,
    HeadSpec,
    LogisticParity,
    Manifest,
    Parity,
    Variant,
    read_manifest,
    write_manifest,
)
from abonyx.config import RuntimeConfig
from abonyx.contributions import check_sums
from abonyx.hashing import file_sha256
from abonyx.model import open_model
from abonyx_export import parity

Report = Callable[[str], None]


class Known(Protocol):
    """Parity records that survive an interrupted call."""

    def parity(self, variant: str) -> Parity | None:
        """The variant's record; None if it was not checked yet."""

    def keep(self, variant: str, record: Parity) -> None:
        """Store a variant's record."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What one variant is compared with.

    Attributes:
        golden: the golden rows with PyTorch's numbers.
        torch, transformers: the versions that made `golden`.
        rounding: see manifest.Parity.weight_rounding.
        detail: text to add to an error message about the variant.
    """

    golden: Golden
    torch: str
    transformers: str
    rounding: dict[str, Difference] | None = None
    detail: str = ""


def check_variants(
    manifest: Manifest,
    references: Mapping[str, Reference],
    golden: Golden,
    staging: Path,
    report: Report,
    fix: str,
    known: Known | None = None,
) -> Manifest:
    """Run every variant through the runtime's own session, as a user will. Writes the manifest and no other file.

    Args:
        references: variant -> what it is compared with.
        golden: the rows that golden.npz holds.
        fix: what the user can do about a variant over its limit.
        known: keeps the records of earlier calls. A variant with a record is not checked again; new records are added.

    Returns:
        The manifest with every file and each variant's record, as written to `staging`.

    Raises:
        ParityError: a variant is over its limit.
        SelfTestError: a variant's contributions do not sum to its heads' sums.
    """
    # The CPU runs every graph here, also the graphs for a GPU. On the GPU the self-test runs the golden rows again.
    variants = manifest.variants
    on_cpu = {name: msgspec.structs.replace(variant, providers=["cpu"]) for name, variant in variants.items()}
    # The session reads the manifest, so it is written first.
    manifest = list_files(msgspec.structs.replace(manifest, variants=on_cpu), staging)
    measured = {}
    for number, (name, variant) in enumerate(variants.items(), 1):
        record = known.parity(name) if known else None
        if record is None:
            report(f"checking {name} against the results of PyTorch ({number} of {len(variants)})")
            record = _check_variant(name, variant, manifest.heads, references[name], golden, staging, fix)
            if known:
                known.keep(name, record)
        measured[name] = msgspec.structs.replace(variant, parity=record)
        for line in parity_lines(name, record):
            report(line)
    manifest = msgspec.structs.replace(manifest, variants=measured)
    write_manifest(manifest, staging)
    read_manifest(staging)  # a bundle that cannot be read back must not take its final name
    return manifest


def parity_lines(variant: str, record: Parity) -> list[str]:
    """A variant's record as text, one line for each head."""
    lines = []
    for name, head in record.heads.items():
        of_head = f", head {name}" if len(record.heads) > 1 else ""
        if isinstance(head, LogisticParity):
            found = f"max |dp| {head.p.max:.2g}, |dlogit| {head.logit.max:.2g}"
        else:
            found = f"max |dvalue| {head.value.max:.2g} sds of the training values"
        lines.append(f"  {variant}{of_head}: {found}, cosine {record.min_cosine:.8f}")
    return lines


def list_files(manifest: Manifest, staging: Path) -> Manifest:
    """Write the manifest with an entry for every file in `staging`; returns that manifest."""
    paths = [path for path in sorted(staging.rglob("*")) if path.is_file() and path.name != MANIFEST_NAME]
    files = {
        path.relative_to(staging).as_posix(): FileEntry(sha256=file_sha256(path), size_bytes=path.stat().st_size)
        for path in paths
    }
    manifest = msgspec.structs.replace(manifest, files=files)
    write_manifest(manifest, staging)
    return manifest


def _check_variant(
    name: str,
    variant: Variant,
    heads: Sequence[HeadSpec],
    reference: Reference,
    golden: Golden,
    staging: Path,
    fix: str,
) -> Parity:
    """Check one variant; returns its record."""
    with open_model(RuntimeConfig(bundle=str(staging), variant=name), self_test="off") as session:

        def run(tokens: parity.Tokens) -> tuple[Float32Array, Float32Array]:
            embedding, sums, parts = session.run_batch(tokens, None, (EMBEDDING, HEAD_SUMS, CONTRIBUTIONS))
            check_sums([part[: len(row)] for part, row in zip(parts, tokens, strict=True)], sums, heads)
            return embedding, sums

        rows, everything = reference.golden, np.arange(len(reference.golden.lengths))
        embedding, sums = selftest.run_golden(rows, everything, run, session.budget.tokens)
        provider = session.config.provider
        found = selftest.compare(rows, heads, everything, embedding, sums)
        parity.enforce(found, heads, variant.limits, name, provider, reference.detail, fix)
        selftest.check_quick(golden, heads, run, variant.limits, f"variant {name} on {provider}")
    return parity.measure(
        rows,
        heads,
        embedding,
        sums,
        reference.rounding,
        provider=provider,
        torch=reference.torch,
        transformers=reference.transformers,
    )
