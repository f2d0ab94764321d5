"""A bundle on disk: find and describe it, and read its golden rows. Nothing here loads a model."""

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
# 36 rows of two pooled layers of 1,280 take 0.7 MB unpacked. A hostile zip could unpack to 1000 times its size.
MAX_GOLDEN_BYTES = 64 * 2**20
# Everything that zipfile and NumPy raise on bytes that are not a .npz file.
_NPZ_ERRORS = (
    *(OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
    *(MemoryError, OverflowError, TypeError, SyntaxError, tokenize.TokenError, Warning),
)


@dataclass(frozen=True)
class Golden:
    """The rows of the self-test with PyTorch's float32 results, and the heads' K columns in float64.

    Attributes:
        input_ids: (n, L) int64, CLS and EOS included, padded on the right.
        lengths: (n,) int64, number of tokens in each row, CLS and EOS included.
        embedding: (n, D) float32, mean over residues.
        value: (n, K) float64, embedding . head_coef + head_intercept: logits, or values of linear heads. For a head
            with two chains, each column is the part of one chain; the first includes the intercept.
        head_names: K names: for each column of head_sums, the name of its head, in the manifest's order.
        head_coef: (K, D) float64.
        head_intercept: (K,) float64.
        head_mean: (D,) float32, which the graph subtracts from the embedding. The intercepts in the manifest are
            shifted to correct for it.
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
    """An opened bundle.

    Attributes:
        path: its directory.
        manifest: its manifest.
        sha256: hash of the manifest, which contains the hash of every file.
        hub: its name on the hub with commit and hash if it was opened by that name; None if opened by its directory.
    """

    path: Path
    manifest: Manifest
    sha256: str
    hub: HubName | None = None

    @property
    def name(self) -> str:
        """The name in the manifest; if it has none, the name of the repository or of the directory."""
        place = os.path.realpath(self.path) if self.hub is None else self.hub.repo
        return self.manifest.name or printable(Path(place).name)

    @property
    def repair(self) -> str:
        """What the user can do about a damaged file."""
        if self.hub is None:
            return "Copy the bundle again from its source, or export it again."
        return f"Remove {self.path}. The next run downloads the bundle again."

    def notes(self) -> list[str]:
        """The bundle's notice, and warnings about heads whose scores have no meaning."""
        manifest = self.manifest
        notes = [manifest.notice] if manifest.notice else []
        for head in manifest.heads:
            which = f" {head.name}" if len(manifest.heads) > 1 else ""
            if head.placeholder:
                notes.append("no head yet")
            if head.encoder not in (None, manifest.encoder.repo_id):
                notes.append(f"the head{which} was trained for another encoder ({head.encoder}): scores mean nothing")
            if head.intercept_shift:
                notes.append(f"benchmark head{which}, intercept moved by {head.intercept_shift:.4g}")
        return notes

    def label(self) -> str:
        """Name, short hash, name on the hub, and notes, as every summary prints them."""
        notes = self.notes()
        named = f"{self.name} ({self.sha256[:12]})" + (f" from {self.hub.without_hash}" if self.hub else "")
        return named + (f", {'; '.join(notes)}" if notes else "")

    def refuse_placeholder(self) -> None:
        """Raise a BundleError if the bundle has no head to score with."""
        if self.manifest.head.placeholder:
            what = f"{self.path}: was exported without a head: it can embed, but not score"
            raise BundleError(what, f"Add a head with `abonyx fit`, or export with {option('head')}.")

    def variant(self, provider: str, name: str | None) -> tuple[str, Variant]:
        """(name, variant) for a provider.

        Args:
            provider: name of the provider.
            name: name of the variant; None = the default for the provider.

        Raises:
            ConfigError: there is no such variant, it is not for this provider, or the provider has no default.
            BundleError: the variant is int8, and its schema is not the one that this version writes.
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
        if variants[chosen].parity is not None:  # None while export makes the variant
            check_quantization(self.path, chosen, variants[chosen])
        return chosen, variants[chosen]

    def files_of(self, variant: Variant) -> list[str]:
        """Paths in the bundle that opening this variant reads: the files in its folder, and the golden rows.

        Raises:
            BundleError: the folder has a file that the manifest does not list, so its content cannot be checked.
        """
        folder = variant.folder
        there = {f"{folder}/{path.name}" for path in (self.path / folder).glob("*")} | {GOLDEN_NAME}
        unlisted = sorted(there - self.manifest.files.keys())
        if unlisted:
            fix = "Remove them, or export the bundle again."
            raise BundleError(f"{self.path}: {shown_names(unlisted)}: not listed in the manifest", fix)
        return [name for name in self.manifest.files if name.startswith(f"{folder}/") or name == GOLDEN_NAME]

    def golden(self) -> Golden:
        """Read the golden rows.

        Raises:
            BundleError: the file is damaged or incomplete.
        """
        path, fix = self.path / GOLDEN_NAME, "Export the bundle again."
        try:
            data = path.read_bytes()  # read once, so that the same bytes are hashed and unpacked
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > MAX_GOLDEN_BYTES:
                raise BundleError(f"{path}: unpacks to {unpacked} bytes; the limit is {MAX_GOLDEN_BYTES}", fix)
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                values = {name: arrays[name] for name in _GOLDEN_ARRAYS}
                names = arrays[_HEAD_NAMES].tolist()
        except _NPZ_ERRORS as error:
            raise BundleError(f"{path}: cannot be read: {first_line(error)}", fix) from error
        listed = self.manifest.files.get(GOLDEN_NAME)  # None while export writes the bundle
        if listed is not None and (found_hash := hashlib.sha256(data).hexdigest()) != listed.sha256:
            raise ChecksumMismatch(f"{path}: sha256 is {found_hash}, the manifest says {listed.sha256}", fix)
        heads = column_names(self.manifest.heads)
        if names != heads:
            raise BundleError(f"{path}: has heads {ascii(names)[:200]}, the manifest has {heads}", fix)
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
        if lengths.max() > most or not np.isin(ids, known).all():  # or an engine may read past the end of a table
            what = f"{path}: has tokens that are not in the manifest's alphabet, or rows of more than {most} tokens"
            raise BundleError(what, fix)
        return Golden(**values, head_names=tuple(names))


def check_quantization(path: Path, name: str, variant: Variant) -> None:
    """Raise a BundleError if the schema of an int8 variant is not the one that this version writes."""
    found = variant.quantization.schema_version if variant.quantization else None
    if found != (QUANTIZATION_SCHEMA if variant.precision == "int8" else None):
        raise other_quantization(path, name, found)


def locate_mini() -> Path:
    """The directory of the shipped bundle: in the installed package, or in the clone of an editable install."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "mini", package.parents[1] / "artifacts" / "mini"):
        if (candidate / "manifest.json").is_file():
            return candidate
    raise BundleError(
        f"the shipped mini bundle is not in {package}", f"Reinstall abonyx, or name a bundle with {option('bundle')}."
    )


def open_bundle(place: str | Path | None) -> Bundle:
    """Read a bundle's manifest. This hashes no file and loads no model.

    Args:
        place: the bundle's directory, or its name on the hub; None = the shipped bundle. A bundle on the hub is
            downloaded first if it is not in the cache.

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
        what = f"{path / MANIFEST_NAME}: sha256 is {bundle.sha256}, it was {name.sha256} when it was downloaded"
        raise ChecksumMismatch(what, bundle.repair)
    return bundle


def open_pinned(config: RuntimeConfig) -> tuple[RuntimeConfig, Bundle]:
    """Open the bundle that a config names. Raises the same errors as open_bundle.

    Returns:
        (config, bundle). If the given config names a bundle on the hub, the returned config has that name with commit
        and hash. Then every later open uses the same bundle, even in another process.
    """
    bundle = open_bundle(config.bundle)
    return config if bundle.hub is None else dataclasses.replace(config, bundle=str(bundle.hub)), bundle


def shown_names(names: Iterable[str]) -> str:
    """Names of files as a message shows them: at most 300 characters, no control characters."""
    return ", ".join(name if name.isprintable() else ascii(name) for name in names)[:300]


def check_graph(bundle: Bundle, variant: Variant) -> GraphFile:
    """Read a variant's graph file, and check that an export could have written it (see graph_file). Loads nothing.

    Raises:
        BundleError: the graph is refused, or its folder has a file that the graph does not use, e.g. a library.
    """
    folder, model = variant.folder, variant.model.rpartition("/")[2]
    files = {name.rpartition("/")[2]: name for name in bundle.manifest.files if name.rpartition("/")[0] == folder}
    sizes = {name: bundle.manifest.files[path].size_bytes for name, path in files.items()}
    graph = check_graph_file(bundle.path / variant.model, sizes)
    # .npz: the rows that int8 was compared on
    unused = sorted(name for name in files.keys() - graph.files - {model} if not name.endswith(".npz"))
    if unused:
        what = f"{bundle.path / folder}: {shown_names(unused)}: the graph does not use it"
        raise BundleError(what, "Remove it, or export the bundle again.")
    return graph
