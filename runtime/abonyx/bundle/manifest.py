"""The types of manifest.json, and how it is read and written. This file is long, because it holds one schema."""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import msgspec

from abonyx.bundle.band import CallBand, ValueBand
from abonyx.bundle.panel import Panel, are_sound
from abonyx.bundle.tolerances import LIMITS, LOGIT_PER_P, Limits
from abonyx.errors import BundleError, first_line

SCHEMA_VERSION = 2
# Schema of int8 variants: QuantizeLinear and DequantizeLinear around Gemm, static scales. Schema 1 had whole layers in
# float32. Schema 2 has one or two int8 terms, or float32, for each product.
QUANTIZATION_SCHEMA = 2
MANIFEST_NAME = "manifest.json"
# A text for people, beside the bundle's own files. The manifest does not list it.
README_NAME = "README.md"
# The 20 standard residues and X (unknown). ESM's vocabulary also has B, Z, U, O, J and gap characters, but the training
# data of ESM and of the heads has almost none of these. They are refused, as in the old pipeline.
RESIDUES = "ACDEFGHIKLMNPQRSTVWYX"
# Some encoders (AntiBERTy) have no token for X. Their bundles refuse sequences that contain X.
UNKNOWN = "X"
# Far above any vocabulary: ESM has 33 tokens.
MAX_TOKEN_ID = 2**31 - 1
# A real manifest has about 10 kB. A hostile one could be very large.
MAX_MANIFEST_BYTES = 4 * 2**20
MAX_TEXT_CHARS = 1_000
# The caches of huggingface_hub, DVC and git-annex give users a folder of links.
LINK_FIX = (
    "A bundle must have plain files. Make a copy without links, `cp -rL BUNDLE COPY`, and open the copy. A bundle on "
    "the Hugging Face hub can be opened by its name, hf:ORG/NAME."
)
_FIX = "Give the directory that `abonyx export -o` wrote."


class _Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Encoder(_Struct, frozen=True, kw_only=True):
    """The source and the shape of the encoder.

    Attributes:
        repo_id: its id on the hub; None for a local directory that does not name one.
        revision: commit of the hub repository; None for a local directory.
        weights_sha256: hash of the checkpoint's tensors in the order of their names.
        architecture: the kind of encoder, e.g. "esm".
        positions: "absolute" (ESM-1v, ESM-1b) or "rotary" (ESM-2).
        layers, hidden, attention_heads: its size.
        token_dropout: whether it scales the token embeddings as ESM's token dropout does.
    """

    repo_id: str | None
    revision: str | None
    weights_sha256: str
    architecture: str
    positions: str
    layers: int
    hidden: int
    attention_heads: int
    token_dropout: bool


class AlphabetSpec(_Struct, frozen=True, kw_only=True):
    """Token ids of the accepted residue letters (RESIDUES, with or without UNKNOWN) and of the special tokens."""

    residues: dict[str, int]
    cls_id: int
    pad_id: int
    eos_id: int


class Candidate(_Struct, frozen=True, kw_only=True):
    """The cross-validation of one C in the grid of `abonyx fit`.

    Attributes:
        c: the inverse strength of regularisation.
        accuracy_mean, accuracy_sd, roc_auc_mean, roc_auc_sd: mean and sd over all folds of all seeds.
        accuracy_seed_sd, roc_auc_seed_sd: sd of the means of the seeds; None for one seed.
    """

    c: float = msgspec.field(name="C")
    accuracy_mean: float
    accuracy_sd: float
    accuracy_seed_sd: float | None
    roc_auc_mean: float
    roc_auc_sd: float
    roc_auc_seed_sd: float | None


class ScoreCounts(_Struct, frozen=True, kw_only=True):
    """Histograms of p over the training rows, one for each class. Each p comes from a fit without that row.

    Attributes:
        bin_edges: the n + 1 edges i / n of n equal bins. A bin includes its lower edge; the last also its upper edge.
        specific, nonspecific: number of rows labelled 0 and 1 in each bin.
    """

    bin_edges: list[float]
    specific: list[int]
    nonspecific: list[int]


class RidgeTraining(_Struct, frozen=True, kw_only=True):
    """The cross-validation of `abonyx fit --task regression`. Each fold uses only its training rows to choose alpha.

    Attributes:
        alpha: strength of regularisation of the head, chosen with all rows.
        alphas: the values to choose from.
        alphas_of_folds: for each value in alphas, the number of folds, over all seeds, that chose it.
        spearman_mean, r2_mean: mean over the seeds. For each seed, they are computed on all rows together. For
            spearman, the mean of a fold's training rows is subtracted from the fold's predictions. r2 compares with
            predicting this mean.
        spearman_seed_sd: sd of the seeds' values; None for one seed.
        mae_mean: mean |error| of the head, in its unit.
        mae_of_mean: mean |error| if the mean of the training rows is predicted for every row.
    """

    alpha: float
    alphas: list[float]
    alphas_of_folds: list[int]
    spearman_mean: float
    spearman_seed_sd: float | None
    r2_mean: float
    mae_mean: float
    mae_of_mean: float


class ClassCut(_Struct, frozen=True, kw_only=True):
    """The cut that turned measured values into classes: non-specific is strictly above (or strictly below) `value`."""

    value: float
    above: bool


# omit_defaults: the manifest mentions only fields that belong to the task and that the fit recorded.
class HeadTraining(_Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record of how `abonyx fit` made a head.

    Attributes:
        rows: number of labelled rows.
        positives: number of rows labelled 1; None for a regression.
        repeated_sequences: number of rows whose sequence also appears in an earlier row. Then several
            folds may have the same sequence.
        c: the chosen C, with which all rows were fitted; None for a regression.
        scaled: whether a StandardScaler comes before the regression.
        class_weight: "balanced"; None = every row counts the same.
        seed: seed of the first cross-validation; the others use the following numbers.
        folds: number of folds of each cross-validation; for a logistic head they are stratified by class.
        seeds: number of cross-validations.
        candidates: results for each C; [] for a regression.
        sklearn: version of scikit-learn.
        scores: out-of-fold p of the rows, in the first cross-validation with the chosen C. If a sequence is repeated,
            the regression may have seen it in another row.
        flagged: number of labelled rows with a flag other than nanobody-like; None = not checked.
        dropped: number of flagged rows that were left out: all flagged rows, or 0. `rows` does not count them.
        band: the range of uncertain calls, from the card's out-of-fold scores with folds by sequence cluster; None for
            a linear head, or if the rows do not allow it.
        copies: names of the changes to a row's start. One copy of each row per change was fitted too; None = no copies.
        interval: the interval around the values of a regression, from residuals in the card's folds; None for another
            head, or if the rows do not allow it.
        ridge: the cross-validation of a regression; None for another head.
        cut: the cut, if measured values were turned into classes.
    """

    rows: int
    positives: int | None = None
    repeated_sequences: int
    c: float | None = msgspec.field(name="C", default=None)
    scaled: bool
    class_weight: str | None
    seed: int
    folds: int
    seeds: int
    candidates: list[Candidate]
    sklearn: str
    scores: ScoreCounts | None = None
    flagged: int | None = None
    dropped: int = 0
    band: CallBand | None = None
    copies: list[str] | None = None
    interval: ValueBand | None = None
    ridge: RidgeTraining | None = None
    cut: ClassCut | None = None


class Calibration(_Struct, frozen=True, kw_only=True):
    """The record of how `abonyx calibrate` fitted a head to measured controls.

    Attributes:
        controls: number of controls that were used.
        positives: number of controls labelled 1; None for a linear head.
        source_name, source_sha256: name of the input file, and hash of its rows.
        slope, intercept: they turn the logit or value of the head as it was fitted into the calibrated one, and include
            earlier calibrations.
        before: metric -> value before this calibration. The metrics are log_loss, brier and ece; for a linear head,
            squared_error and mae in its unit.
        after: metric -> value after this calibration. Each control is predicted by a calibration without that control.
    """

    controls: int
    positives: int | None
    source_name: str
    source_sha256: str
    slope: float
    intercept: float
    before: dict[str, float]
    after: dict[str, float]


# Chain of an antibody -> the letters that a numbering gives it. The light chain L is kappa (K) or lambda (L).
CHAINS = {"H": ("H",), "L": ("K", "L")}
# The chains that a head may expect: one chain, or both chains of an antibody.
CHAIN_SETS = (["H"], ["L"], ["H", "L"])
LOGISTIC, LINEAR = "logistic", "linear"


def chain_letters(chains: Iterable[str]) -> tuple[str, ...]:
    """The letters of these chains (keys of CHAINS) in a numbering."""
    return tuple(letter for chain in chains for letter in CHAINS[chain])


# The names of result columns begin with the name of the head. A head with a reserved name would give a column that has
# another meaning: p_nonspecific of results, charge_change and pI_change of a scan, and the columns of an explanation.
_HEAD_NAME = re.compile("[A-Za-z][A-Za-z0-9_-]{0,39}")
RESERVED_HEAD_NAMES = ("all", "p", "charge", "pi", "id", "chain", "position", "imgt", "region", "residue", "record")
_RESERVED = ", ".join(RESERVED_HEAD_NAMES)
HEAD_NAME_RULE = f"A name has 1 to 40 letters, digits, - and _, begins with a letter, and is not one of {_RESERVED}."


def is_head_name(name: str) -> bool:
    """Whether this is a valid name of a head."""
    return _HEAD_NAME.fullmatch(name) is not None and name.lower() not in RESERVED_HEAD_NAMES


# omit_defaults: a manifest mentions `training`, `placeholder` and `calibration` only if the head has them.
class HeadSpec(_Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One head of the graph.

    Attributes:
        name: its name, which is also part of its columns' names; see is_head_name.
        kind: "logistic" (gives a probability) or "linear" (gives a value in the unit of an assay).
        unit: unit of a linear head's values; None for a logistic head.
        higher_is_worse: whether a higher value means a worse antibody.
        training_sd: standard deviation of a linear head's training values, in its unit; None for a logistic head.
        intercept: number that is added to the sum of its columns of head_sums.
        classes: [specific, non-specific], as trained; [] for a linear head.
        chains: the chains of its training set, one of CHAIN_SETS. Records with other chains are flagged. head_sums has
            a column for each.
        source_name, source_sha256: the file that it was read from; after `fit`, name of the input and hash of its rows.
        encoder: hub id of the encoder that it was trained with, if the head's file records it.
        pooling, pooling_batch_size: the pooling rule of its training embeddings; None = not recorded.
        thresholds: assay -> threshold; p strictly above it is non-specific.
        default_threshold: used if neither an assay nor a threshold is given; None for a linear head.
        intercept_shift: number that export added to the intercept; 0.0 except for benchmark checkpoints.
        training: how `fit` made it; None for a head that was read from a file.
        placeholder: whether there is no head yet. Then the bundle can embed, but not score.
        calibration: how its numbers were calibrated on controls; None = not calibrated.
    """

    name: str
    kind: str
    unit: str | None
    higher_is_worse: bool
    training_sd: float | None
    intercept: float
    classes: list[float]
    chains: list[str]
    source_name: str
    source_sha256: str
    encoder: str | None
    pooling: str | None
    pooling_batch_size: int | None
    thresholds: dict[str, float]
    default_threshold: float | None
    intercept_shift: float
    training: HeadTraining | None = None
    placeholder: bool = False
    calibration: Calibration | None = None

    @property
    def domain_chains(self) -> tuple[str, ...]:
        """The letters of its chains in a numbering."""
        return chain_letters(self.chains)


class Difference(_Struct, frozen=True, kw_only=True):
    """Largest and mean |difference| from PyTorch float32 over the golden set."""

    max: float
    mean: float


class LogisticParity(_Struct, frozen=True, kw_only=True, tag_field="kind", tag=LOGISTIC):
    """Differences of a logistic head from PyTorch.

    Attributes:
        logit, p: differences of its logit and its probability.
        label_flips: threshold -> number of rows whose label differs.
        spearman: rank correlation of the logits.
    """

    logit: Difference
    p: Difference
    label_flips: dict[str, int]
    spearman: float


class LinearParity(_Struct, frozen=True, kw_only=True, tag_field="kind", tag=LINEAR):
    """Differences of a linear head from PyTorch.

    Attributes:
        value: difference in standard deviations of its training values.
        spearman: rank correlation of the values.
    """

    value: Difference
    spearman: float


class Parity(_Struct, frozen=True, kw_only=True):
    """One variant compared with PyTorch float32 on the golden set. PyTorch runs each golden row alone, unpadded.

    At fp32, export also compares one row of max_residues residues.

    Attributes:
        rows: number of rows.
        embedding: differences of the embedding.
        min_cosine: smallest cosine between the two embeddings of a row.
        heads: name of a head -> its differences, for every head.
        weight_rounding: only for fp16: the differences of the embedding, and of the first head's logit and p, if only
            the weights are rounded to float16 (float32 arithmetic). After `fit`, it has only the embedding's
            differences, because those of logit and p depend on the head. None for other precisions.
        provider, onnxruntime, torch, transformers: provider and versions of this comparison.
    """

    rows: int
    embedding: Difference
    min_cosine: float
    heads: dict[str, LogisticParity | LinearParity]
    weight_rounding: dict[str, Difference] | None
    provider: str
    onnxruntime: str
    torch: str
    transformers: str

    @property
    def max_p(self) -> float | None:
        """The largest |dp| of all logistic heads; None if there are none."""
        return max((each.p.max for each in self.heads.values() if isinstance(each, LogisticParity)), default=None)

    @property
    def flips(self) -> int:
        """Number of label flips over all logistic heads and thresholds."""
        logistic = (each for each in self.heads.values() if isinstance(each, LogisticParity))
        return sum(sum(each.label_flips.values()) for each in logistic)


class ScoreGate(_Struct, frozen=True, kw_only=True, tag_field="kind", tag=LOGISTIC):
    """A logistic head at int8 compared with fp32, both on the CPU, on sequences that int8 was not calibrated on.

    Attributes:
        rows: number of sequences.
        p, logit: differences of its probability and its logit.
        label_flips: threshold -> share of the rows whose label differs.
        spearman: rank correlation of the logits.
    """

    rows: int
    p: Difference
    logit: Difference
    label_flips: dict[str, float]
    spearman: float


class ValueGate(_Struct, frozen=True, kw_only=True, tag_field="kind", tag=LINEAR):
    """The same comparison as ScoreGate for a linear head.

    Attributes:
        rows: number of sequences.
        value: difference in standard deviations of its training values.
        spearman: rank correlation of the values.
    """

    rows: int
    value: Difference
    spearman: float


class Quantization(_Struct, frozen=True, kw_only=True):
    """The record of how an int8 variant was made.

    Attributes:
        schema_version: schema of the int8 graph and of this record.
        source: the sequences for calibration and comparison.
        calibration_rows: number of sequences for calibration.
        two_terms: products, as "layer.name", whose input is stored as two int8 terms, because one term would exceed a
            limit.
        float32: products that stay float32 for the same reason. All other products have one term.
        cost: predicted mean time of a product, in units of a product with one term.
        gates: name of a head -> its comparison with fp32, for every head.
    """

    schema_version: int
    source: str
    calibration_rows: int
    two_terms: list[str]
    float32: list[str]
    cost: float
    gates: dict[str, ScoreGate | ValueGate]


# omit_defaults: only int8 mentions `quantization`.
class Variant(_Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One graph of the bundle.

    Attributes:
        model: path of the .onnx file in the bundle. All other files in its folder belong to it.
        precision: a key of tolerances.LIMITS.
        inputs: names of the graph's inputs.
        providers: the providers that it is for.
        limits: the limits that export has checked, and that every open checks again.
        parity: the comparison with PyTorch; None only while export measures it.
        quantization: only for int8; else None.
    """

    model: str
    precision: str
    inputs: list[str]
    providers: list[str]
    limits: Limits
    parity: Parity | None
    quantization: Quantization | None = None

    @property
    def folder(self) -> str:
        """The folder of the variant in the bundle."""
        return self.model.rpartition("/")[0]


class FileEntry(_Struct, frozen=True, kw_only=True):
    """The hash and the size that a file must have."""

    sha256: str
    size_bytes: int


# omit_defaults: a bundle without panels does not mention them.
class Manifest(_Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole of manifest.json; docs/bundle.md describes every field.

    Attributes:
        name: name of the bundle; "" = the name of its directory (see bundle.Bundle.name).
        notice: a short text that is shown with the name, e.g. that the encoder is untrained; "" = none.
        licence: licence of the bundle, for a reader.
        max_residues: residues of the longest sequence that the graph takes.
        pooling: the default pooling rule.
        pooled_layers: the layers whose means are concatenated, in this order: "embedding", "last" or the number of a
            layer before the last.
        heads: the heads in the order of their columns of head_sums. The first is the default. They may have different
            chains; every head that expects the heavy chain uses the record's heavy chain.
        variants: name -> variant.
        default_variant: provider -> name of its default variant.
        golden_source: the source of the golden set, for a reader.
        packages: name -> version of the packages that made the bundle.
        files: path in the bundle -> entry, for every file except the manifest.
        panels: the panels for percentiles. The first is the default.
    """

    schema_version: int
    name: str
    notice: str
    licence: str
    encoder: Encoder
    alphabet: AlphabetSpec
    max_residues: int
    pooling: str
    pooled_layers: list[str]
    embedding_width: int
    heads: list[HeadSpec]
    variants: dict[str, Variant]
    default_variant: dict[str, str]
    golden_source: str
    packages: dict[str, str]
    files: dict[str, FileEntry]
    panels: list[Panel] = []

    @property
    def head(self) -> HeadSpec:
        """The first head, which is used if none is named."""
        return self.heads[0]


class _SchemaOnly(msgspec.Struct):
    schema_version: int


class _AnyQuantization(msgspec.Struct):
    quantization: _SchemaOnly | None = None


class _VariantsOnly(msgspec.Struct):
    variants: dict[str, _AnyQuantization]


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Write manifest.json, indented, with the keys in declared order."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (directory / MANIFEST_NAME).write_bytes(text + b"\n")


def read_manifest(directory: Path) -> tuple[Manifest, bytes]:
    """Read a manifest; returns (manifest, its bytes).

    Raises:
        BundleError: there is no such directory or manifest, or it is not JSON, has another schema, or has values or
            paths that an export never writes.
    """
    path = directory / MANIFEST_NAME
    data = _read_bytes(directory, path)
    return parse_manifest(data, path), data


def _read_bytes(directory: Path, path: Path) -> bytes:
    """The bytes of a plain file. A file of more than MAX_MANIFEST_BYTES is refused without reading it."""
    try:
        if not directory.is_dir():
            raise BundleError(f"{directory}: no such bundle directory", _FIX)
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise BundleError(f"{path}: is a symbolic link", LINK_FIX)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait forever
            raise BundleError(f"{path}: is not a plain file", _FIX)
        if status.st_size > MAX_MANIFEST_BYTES:
            what = f"{path}: has {status.st_size} bytes; the limit is {MAX_MANIFEST_BYTES}"
            raise BundleError(what, _FIX)
        with path.open("rb") as file:
            return file.read(status.st_size)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}", _FIX) from error


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """Parse the bytes of a manifest. `path` is only for messages. Raises as read_manifest does."""
    try:
        schema = msgspec.json.decode(data, type=_SchemaOnly).schema_version
        if schema != SCHEMA_VERSION:
            raise BundleError(
                f"{path}: schema version is {first_line(schema)}, this abonyx reads {SCHEMA_VERSION}",
                "Export the bundle again, fit its head again on a bundle of this schema, or install the version of "
                "abonyx that wrote it.",
            )
        try:
            manifest = msgspec.json.decode(data, type=Manifest)
        except msgspec.ValidationError:
            _check_quantization_schemas(data, path)  # a better message, if only the schema of an int8 variant differs
            raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path}: not a manifest: {first_line(error)}", _FIX) from error
    _check_text(msgspec.to_builtins(manifest), path)
    _check_paths(manifest, path)
    _check_values(manifest, path)
    return manifest


def _check_text(value: object, path: Path) -> None:
    """Refuse text with control characters or of unusual length, because summaries print it to a terminal."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_text(key, path)
            _check_text(item, path)
    elif isinstance(value, list):
        for item in value:
            _check_text(item, path)
    elif isinstance(value, str) and not (value.isprintable() and len(value) <= MAX_TEXT_CHARS):
        shown = ascii(value[:60])
        what = f"{path}: text {shown} is longer than {MAX_TEXT_CHARS} characters or has control characters"
        raise BundleError(what, "Export the bundle again.")


def _check_quantization_schemas(data: bytes, path: Path) -> None:
    for name, variant in msgspec.json.decode(data, type=_VariantsOnly).variants.items():
        if variant.quantization and variant.quantization.schema_version != QUANTIZATION_SCHEMA:
            raise other_quantization(path.parent, name, variant.quantization.schema_version)


def other_quantization(bundle: Path, variant: str, found: int | None) -> BundleError:
    """The error for an int8 variant whose schema is not the one that this version writes."""
    shown = ascii(variant)[1:-1][:60]  # the manifest may not be checked yet
    return BundleError(
        f"{bundle}: variant {shown} is int8 of schema {found}, this abonyx reads schema {QUANTIZATION_SCHEMA}",
        "Export it again: abonyx export --encoder ID_OR_DIR --head FILE --variants fp32,int8 -o NEW_BUNDLE.",
    )


def _check_paths(manifest: Manifest, path: Path) -> None:
    """Check that every path stays inside the bundle, and that every model is a listed file."""
    for name in manifest.files:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name or str(pure) != name:
            raise BundleError(f"{path}: file {name!r} is outside the bundle", "Export the bundle again.")
    for name, variant in manifest.variants.items():
        if variant.model not in manifest.files or "/" not in variant.model:
            raise BundleError(f"{path}: variant {name}: {variant.model!r} is not a listed file", "Export it again.")
    for provider, name in manifest.default_variant.items():
        if name not in manifest.variants:
            raise BundleError(f"{path}: default variant {name!r} of {provider} does not exist", "Export it again.")


def _check_values(manifest: Manifest, path: Path) -> None:
    """Refuse values that an export never writes: they would silently give wrong scores."""
    alphabet, limits = manifest.alphabet, [variant.limits for variant in manifest.variants.values()]
    ids = [*alphabet.residues.values(), alphabet.cls_id, alphabet.pad_id, alphabet.eos_id]
    heads, variants = manifest.heads, manifest.variants.values()
    names = [head.name for head in heads]
    gates = [list(variant.quantization.gates) for variant in variants if variant.quantization]
    records = [list(variant.parity.heads) for variant in variants if variant.parity]
    faults = {
        "alphabet.residues": sorted({*alphabet.residues, UNKNOWN}) != sorted(RESIDUES),
        "alphabet ids": min(ids) < 0 or max(ids) > MAX_TOKEN_ID or len(set(ids)) != len(ids),
        "max_residues": not 1 <= manifest.max_residues <= MAX_TOKEN_ID,
        "file sizes": not all(0 <= entry.size_bytes < 1 << 63 for entry in manifest.files.values()),
        "embedding_width": manifest.embedding_width != manifest.encoder.hidden * len(manifest.pooled_layers),
        "pooling": manifest.pooling != "residues",
        "heads": not heads or not all(map(is_head_name, names)) or len({name.lower() for name in names}) < len(names),
        "head kind, unit or training_sd": not all(map(_is_whole_head, heads)),
        "head chains": not all(head.chains in CHAIN_SETS for head in heads),
        "head thresholds": not all(map(_has_thresholds, heads)),
        "heads of parity or gates": any(each != names for each in (*gates, *records)),
        "variant limits": not all(0 < limit.p < 1 and limit.logit <= LOGIT_PER_P for limit in limits),
        "variants": not all(variant.providers for variant in variants) or not manifest.variants,
        "head training": not all(map(_is_trained, heads)),
        "head training scores": not all(_are_counts(head.training) for head in heads),
        "head training band": not all(map(_has_band, heads)),
        "head calibration": not all(map(_is_calibrated, heads)),
        "panels": not are_sound(manifest.panels, names, manifest.variants, manifest.files),
        "variant precision": not all(variant.precision in LIMITS for variant in variants),
    }
    other = next((panel for panel in manifest.panels if panel.encoder_sha256 != manifest.encoder.weights_sha256), None)
    if other is not None:
        found = f"sha256 is {other.encoder_sha256}, this bundle's is {manifest.encoder.weights_sha256}"
        what = f"{path}: panel {other.name} was scored with another encoder: its {found}"
        raise BundleError(what, "Add the panel to this bundle with `abonyx reference`.")
    wrong = [name for name, fault in faults.items() if fault]
    if wrong:
        what = f"{path}: {', '.join(wrong)}: has values that an export never writes"
        raise BundleError(what, "Export the bundle again.")


def _is_whole_head(head: HeadSpec) -> bool:
    """Whether a head has the fields of its kind, and none of the other kind."""
    if not math.isfinite(head.intercept):
        return False
    if head.kind == LOGISTIC:
        return head.unit is None and head.training_sd is None and head.higher_is_worse
    sd = head.training_sd or 0.0
    return head.kind == LINEAR and bool(head.unit) and 0 < sd < math.inf and not (head.classes or head.placeholder)


def _is_trained(head: HeadSpec) -> bool:
    """Whether the training fits the head's kind, if it is recorded."""
    training = head.training
    if training is None:
        return True
    classes = training.positives is not None and training.c is not None
    return classes == (head.kind == LOGISTIC) and (training.ridge is None) == classes


def _has_thresholds(head: HeadSpec) -> bool:
    """Whether the thresholds are probabilities; for a linear head, whether there are none."""
    if head.kind == LINEAR:
        return head.default_threshold is None and not head.thresholds
    default = head.default_threshold
    return default is not None and all(0 <= value <= 1 for value in (default, *head.thresholds.values()))


def _has_band(head: HeadSpec) -> bool:
    """Whether the stored band or interval fits the head's kind, if there is one."""
    if head.training is None:
        return True
    band, interval = head.training.band, head.training.interval
    of_calls = band is None or (head.kind == LOGISTIC and band.is_sound())
    return of_calls and (interval is None or (head.kind == LINEAR and interval.is_sound()))


def _is_calibrated(head: HeadSpec) -> bool:
    """Whether a calibration has a slope above 0 and the metrics of the head's kind, if there is one."""
    found = head.calibration
    if found is None:
        return True
    names = {"log_loss", "brier", "ece"} if head.kind == LOGISTIC else {"squared_error", "mae"}
    numbers = [found.intercept, *found.before.values(), *found.after.values()]
    whole = found.before.keys() == found.after.keys() == names and all(map(math.isfinite, numbers))
    return whole and 0 < found.slope < math.inf


def _are_counts(training: HeadTraining | None) -> bool:
    """Whether the histogram has equal bins and counts each row once, if there is one."""
    if training is None or training.scores is None:
        return True
    edges, counts = training.scores.bin_edges, [training.scores.specific, training.scores.nonspecific]
    bins = len(edges) - 1
    return (
        bins > 0
        and training.positives is not None
        and edges == [index / bins for index in range(bins + 1)]
        and all(len(each) == bins and min(each) >= 0 for each in counts)
        and [sum(each) for each in counts] == [training.rows - training.positives, training.positives]
    )
