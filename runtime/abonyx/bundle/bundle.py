"""A bundle on disk: found, described, its bytes checked, its golden rows read. Nothing here loads a model."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from abonyx.arrays import Float32Array, Float64Array, Int64Array
from abonyx.bundle.graph_file import GraphFile, check_graph_file
from abonyx.bundle.heads import column_names
from abonyx.bundle.hub.fetch import fetch
from abonyx.bundle.manifest import (
    MANIFEST_NAME,
    QUANTIZATION_SCHEMA,
    Manifest,
    Variant,
    other_quantization,
    read_manifest,
)
from abonyx.config import RuntimeConfig
from abonyx.errors import BundleError, ChecksumMismatch, ConfigError, first_line, printable
from abonyx.hub_name import HubName, hub_name, is_hub_name
from abonyx.wording import option

GOLDEN_NAME = "golden.npz"
_GOLDEN_ARRAYS = {
    **dict.fromkeys(("input_ids", "lengths"), np.int64),
    **dict.fromkeys(("embedding", "head_mean"), np.float32),
    **dict.fromkeys(("value", "head_coef", "head_intercept"), np.float64),
}
_HEAD_NAMES = "head_names"
# 36 rows of two pooled layers of 1,280 take 0.7 MB unpacked; zip packs zeros 1000:1.
MAX_GOLDEN_BYTES = 64 * 2**20
# What zipfile and numpy raise on bytes that are no .npz, its header parser's among them.
_NPZ_ERRORS = (
    *(OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
    *(MemoryError, OverflowError, TypeError, SyntaxError, tokenize.TokenError, Warning),
)


@dataclass(frozen=True)
class Golden:
    """The self-test's rows, as PyTorch float32 saw them, and the heads' K columns in float64.

    Attributes:
        input_ids: (n, L) int64, CLS and EOS included, right-padded.
        lengths: (n,) int64 tokens a row, CLS and EOS included.
        embedding: (n, D) float32, residue mean.
        value: (n, K) float64, embedding . head_coef + head_intercept: logits, or values of linear heads; of a head on
            two chains what each of them adds, the intercept with the first.
        head_names: K names, a head's for each of its columns of head_sums; the manifest's in its order.
        head_coef: (K, D) float64; head_intercept: (K,) float64.
        head_mean: (D,) float32 that the graph subtracts first; the manifest's intercepts have it added back.
    """

    input_ids: Int64Array
    lengths: Int64Array
    embedding: Float32Array
    value: Float64Array
    head_names: tuple[str, ...]
    head_coef: Float64Array
    head_intercept: Float64Array
    head_mean: Float32Array

    def save(self, directory: Path) -> None:
        """Write golden.npz."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _GOLDEN_ARRAYS}
        arrays[_HEAD_NAMES] = np.array(self.head_names)
        np.savez(directory / GOLDEN_NAME, **arrays)


@dataclass(frozen=True)
class Bundle:
    """A bundle's directory, manifest, and hash (of the manifest, which holds every file's).

    Attributes:
        hub: its name by commit and hash, if it was opened by name; None = by its directory.
    """

    path: Path
    manifest: Manifest
    sha256: str
    hub: HubName | None = None

    @property
    def name(self) -> str:
        """The manifest's name; if it has none, the repository's or the directory's, which a rename changes."""
        place = os.path.realpath(self.path) if self.hub is None else self.hub.repo
        return self.manifest.name or printable(Path(place).name)

    @property
    def repair(self) -> str:
        """What to do about a damaged file."""
        if self.hub is None:
            return "Copy the bundle again from where it was exported, or export it again."
        return f"Remove {self.path}: the next run downloads it again."

    def notes(self) -> list[str]:
        """The notice, and what makes a head's scores mean nothing."""
        manifest = self.manifest
        notes = [manifest.notice] if manifest.notice else []
        for head in manifest.heads:
            which = f" {head.name}" if len(manifest.heads) > 1 else ""
            if head.placeholder:
                notes.append("no head yet")
            if head.encoder not in (None, manifest.encoder.repo_id):
                notes.append(f"the head{which} is another encoder's ({head.encoder}): scores mean nothing")
            if head.intercept_shift:
                notes.append(f"benchmark head{which}, intercept moved by {head.intercept_shift:.4g}")
        return notes

    def label(self) -> str:
        """Name, short hash, where it is from on the hub, and notes, as every summary prints it."""
        notes = self.notes()
        named = f"{self.name} ({self.sha256[:12]})" + (f" from {self.hub.without_hash}" if self.hub else "")
        return named + (f", {'; '.join(notes)}" if notes else "")

    def refuse_placeholder(self) -> None:
        """Raise a BundleError where there is no head to score with."""
        if self.manifest.head.placeholder:
            what = f"{self.path}: exported without a head: it embeds, and has no scores"
            raise BundleError(what, f"Give it one with `abonyx fit`, or export with {option('head')}.")

    def variant(self, provider: str, name: str | None) -> tuple[str, Variant]:
        """The variant asked for, or the provider's default.

        Raises:
            ConfigError: no such variant, not for this provider, or no default for it.
            BundleError: an int8 variant of another schema.
        """
        variants = self.manifest.variants
        listed = ", ".join(f"{key} ({'/'.join(value.providers)})" for key, value in variants.items())
        chosen = name if name is not None else self.manifest.default_variant.get(provider)
        if chosen is None or chosen not in variants:
            wanted = (
                f"no variant {first_line(repr(name))}"
                if name is not None
                else f"no default variant for provider {provider}"
            )
            raise ConfigError(f"{self.path}: {wanted}", f"It has: {listed}.")
        if provider not in variants[chosen].providers:
            raise ConfigError(f"{self.path}: variant {chosen} is not for provider {provider}", f"It has: {listed}.")
        if variants[chosen].parity is not None:  # else export is still at it
            check_quantization(self.path, chosen, variants[chosen])
        return chosen, variants[chosen]

    def files_of(self, variant: Variant) -> list[str]:
        """Paths in the bundle that opening this variant reads: its own folder and the golden rows.

        Raises:
            BundleError: a file is there that the manifest does not list, so that nothing vouches for it.
        """
        folder = variant.folder
        there = {f"{folder}/{path.name}" for path in (self.path / folder).glob("*")} | {GOLDEN_NAME}
        unlisted = sorted(there - self.manifest.files.keys())
        if unlisted:
            fix = "Remove them, or export the bundle again."
            raise BundleError(f"{self.path}: {shown_names(unlisted)}: not listed in the manifest", fix)
        return [name for name in self.manifest.files if name.startswith(f"{folder}/") or name == GOLDEN_NAME]

    def golden(self) -> Golden:
        """The golden rows.

        Raises:
            BundleError: damaged or incomplete.
        """
        path, fix = self.path / GOLDEN_NAME, "Export the bundle again."
        try:
            data = path.read_bytes()  # once: what was hashed is what is unpacked
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > MAX_GOLDEN_BYTES:
                raise BundleError(f"{path}: unpacks to {unpacked} bytes, {MAX_GOLDEN_BYTES} are the most", fix)
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                values = {name: arrays[name] for name in _GOLDEN_ARRAYS}
                names = arrays[_HEAD_NAMES].tolist()
        except _NPZ_ERRORS as error:
            raise BundleError(f"{path}: cannot be read: {first_line(error)}", fix) from error
        listed = self.manifest.files.get(GOLDEN_NAME)  # none while export writes the bundle
        if listed is not None and (found_hash := hashlib.sha256(data).hexdigest()) != listed.sha256:
            raise ChecksumMismatch(f"{path}: sha256 {found_hash}, manifest says {listed.sha256}", fix)
        heads = column_names(self.manifest.heads)
        if names != heads:
            raise BundleError(f"{path}: is of heads {ascii(names)[:200]}, the manifest has {heads}", fix)
        rows, width, count = values["lengths"].size, self.manifest.embedding_width, len(heads)
        found = {name: (value.shape, value.dtype) for name, value in values.items() if name != "input_ids"}
        shapes = {"lengths": (rows,), "embedding": (rows, width), "value": (rows, count), "head_mean": (width,)}
        shapes |= {"head_coef": (count, width), "head_intercept": (count,)}
        expected = {name: (shape, np.dtype(_GOLDEN_ARRAYS[name])) for name, shape in shapes.items()}
        if found != expected or rows < 2:
            raise BundleError(f"{path}: arrays are {found}, expected {expected}", fix)
        ids, lengths = values["input_ids"], values["lengths"]
        if ids.dtype != np.int64 or ids.shape != (rows, lengths.max()) or lengths.min() < 2 or ids.min() < 0:
            raise BundleError(f"{path}: input_ids {ids.shape} {ids.dtype} do not fit the lengths, or are negative", fix)
        spec, most = self.manifest.alphabet, self.manifest.max_residues + 2
        known = [*spec.residues.values(), spec.cls_id, spec.pad_id, spec.eos_id]
        if lengths.max() > most or not np.isin(ids, known).all():  # an engine may read past a table's end
            what = f"{path}: tokens that the manifest's alphabet has not, or rows over its {most} tokens"
            raise BundleError(what, fix)
        return Golden(**values, head_names=tuple(names))


def check_quantization(path: Path, name: str, variant: Variant) -> None:
    """Raise a BundleError where an int8 variant was not made as this version makes them."""
    found = variant.quantization.schema_version if variant.quantization else None
    if found != (QUANTIZATION_SCHEMA if variant.precision == "int8" else None):
        raise other_quantization(path, name, found)


def locate_mini() -> Path:
    """The bundle that ships: inside the installed package, else the repository's (an editable install)."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "mini", package.parents[1] / "artifacts" / "mini"):
        if (candidate / "manifest.json").is_file():
            return candidate
    raise BundleError(
        f"the shipped mini bundle is not in {package}", f"Reinstall abonyx, or name a bundle with {option('bundle')}."
    )


def open_bundle(place: str | Path | None) -> Bundle:
    """Read a bundle's manifest. No file of a directory is hashed and no model loaded yet.

    Args:
        place: its directory, or its name on the hub, which downloads it first if it is not in the cache; None = the
            shipped one.

    Raises:
        BundleError: see manifest.read_manifest and hub.fetch.
        ConfigError: see hub.fetch.
    """
    name = None
    if place is not None and is_hub_name(place):
        path, name = fetch(hub_name(place))
    else:
        path = locate_mini() if place is None else Path(place)
    manifest, data = read_manifest(path)
    bundle = Bundle(path, manifest, hashlib.sha256(data).hexdigest(), name)
    if name is not None and bundle.sha256 != name.sha256:
        what = f"{path / MANIFEST_NAME}: sha256 {bundle.sha256}, it was {name.sha256} when it was downloaded"
        raise ChecksumMismatch(what, bundle.repair)
    return bundle


def open_pinned(config: RuntimeConfig) -> tuple[RuntimeConfig, Bundle]:
    """Open the bundle that a config names. Raises as open_bundle.

    Returns:
        The config, in which a name on the hub is replaced by the same one with commit and hash: every later open of it,
        in this process or another, is of the same bundle. And the bundle.
    """
    bundle = open_bundle(config.bundle)
    return config if bundle.hub is None else dataclasses.replace(config, bundle=str(bundle.hub)), bundle


def shown_names(names: Iterable[str]) -> str:
    """Names of files as a message may show them: no control characters, no end of them."""
    return ", ".join(name if name.isprintable() else ascii(name) for name in names)[:300]


def check_graph(bundle: Bundle, variant: Variant) -> GraphFile:
    """Read a variant's graph file, and refuse one that no export writes; see graph_file. Loads nothing.

    Raises:
        BundleError: also where a file lies beside the graph that nothing of the bundle uses, e.g. a library.
    """
    folder, model = variant.folder, variant.model.rpartition("/")[2]
    files = {name.rpartition("/")[2]: name for name in bundle.manifest.files if name.rpartition("/")[0] == folder}
    sizes = {name: bundle.manifest.files[path].size_bytes for name, path in files.items()}
    graph = check_graph_file(bundle.path / variant.model, sizes)
    # .npz: the rows that int8 was judged by
    unused = sorted(name for name in files.keys() - graph.files - {model} if not name.endswith(".npz"))
    if unused:
        what = f"{bundle.path / folder}: {shown_names(unused)}: the graph does not use it"
        raise BundleError(what, "Remove it, or export the bundle again.")
    return graph
