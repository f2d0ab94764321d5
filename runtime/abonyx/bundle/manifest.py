"""manifest.json: the typed description of a bundle, and how it is read and written. Over 300 lines for one schema."""

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
# Of int8 variants: QuantizeLinear/DequantizeLinear around Gemm, static scales. 1 had whole layers in float32; 2 has
# one or two terms, or float32, for each product.
QUANTIZATION_SCHEMA = 2
MANIFEST_NAME = "manifest.json"
# Beside the bundle's own files: its card, for people.
README_NAME = "README.md"
# The 20 standard residues and X (unknown). B, Z, U, O, J and gap characters are in ESM's vocabulary but were all but
# absent from its training and from the heads': refused, as the old pipeline did, rather than scored.
RESIDUES = "ACDEFGHIKLMNPQRSTVWYX"
# Not in every encoder's vocabulary (AntiBERTy's): sequences that have it are refused there.
UNKNOWN = "X"
# ESM's vocabularies have 33 tokens; ids are int64 in the graph.
MAX_TOKEN_ID = 2**31 - 1
# A real manifest is some 10 kB; this bounds what a hostile one can make us read.
MAX_MANIFEST_BYTES = 4 * 2**20
MAX_TEXT_CHARS = 1_000
# The caches of huggingface_hub, DVC and git-annex hand out a folder of links.
LINK_FIX = (
    "A bundle holds plain files. Make a copy without links, `cp -rL BUNDLE COPY`, and open that; one from the Hugging "
    "Face hub can be opened by its name, hf:ORG/NAME."
)
_FIX = "A bundle is the directory that `abonyx export -o` wrote."


class _Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Encoder(_Struct, frozen=True, kw_only=True):
    """Where the encoder came from and its shape.

    Attributes:
        repo_id: hub id it is known by; None for a local directory that states none.
        revision: commit of the hub repository; None for a local directory.
        weights_sha256: of the checkpoint's tensors, by name, as loaded.
        positions: "absolute" (ESM-1v, ESM-1b) or "rotary" (ESM-2).
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
    """Token id of each accepted residue letter (RESIDUES, with or without UNKNOWN), and of the special tokens."""

    residues: dict[str, int]
    cls_id: int
    pad_id: int
    eos_id: int


class Candidate(_Struct, frozen=True, kw_only=True):
    """One C of `abonyx fit`'s grid, cross-validated.

    Attributes:
        c: the inverse strength of regularisation.
        accuracy_mean, accuracy_sd, roc_auc_mean, roc_auc_sd: over every fold of every seed.
        accuracy_seed_sd, roc_auc_seed_sd: of the seeds' means; None where there was one seed.
    """

    c: float = msgspec.field(name="C")
    accuracy_mean: float
    accuracy_sd: float
    accuracy_seed_sd: float | None
    roc_auc_mean: float
    roc_auc_sd: float
    roc_auc_seed_sd: float | None


class ScoreCounts(_Struct, frozen=True, kw_only=True):
    """A histogram of p for each class, of training rows, each p by a regression fitted without that row.

    Attributes:
        bin_edges: of n equal bins, each i / n; a bin holds its lower edge, the last one its upper edge too.
        specific, nonspecific: rows labelled 0 and 1 in each bin.
    """

    bin_edges: list[float]
    specific: list[int]
    nonspecific: list[int]


class RidgeTraining(_Struct, frozen=True, kw_only=True):
    """What `abonyx fit --task regression` measured on rows left out, alpha chosen from each fold's training rows.

    Attributes:
        alpha: of the head, the strength of regularisation, chosen from all rows; alphas: those to choose from.
        alphas_of_folds: in how many folds, over all seeds, each of them was chosen.
        spearman_mean, r2_mean: over the seeds, of all rows together, each less the mean of its fold's training rows.
        spearman_seed_sd: of the seeds' values; None where there was one seed.
        mae_mean, mae_of_mean: mean |error| of the head, and of that training mean, in the head's unit.
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
    """How measured values became classes: non-specific is strictly above, or strictly below, `value`."""

    value: float
    above: bool


# omit_defaults: a bundle mentions only what its task has, and what was recorded when it was fitted.
class HeadTraining(_Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How `abonyx fit` made a head.

    Attributes:
        rows, positives: labelled rows, and those labelled 1 (None for a regression).
        repeated_sequences: rows whose sequence stands in an earlier row too: folds may share them.
        c: the candidate that was refitted on all rows; None for a regression.
        scaled: whether a StandardScaler stands before the regression.
        class_weight: "balanced"; None = every row counts the same.
        seed: of the first cross-validation; the others count up from it.
        folds, seeds: folds, stratified for classes, of each of so many cross-validations.
        sklearn: version.
        scores: out-of-fold p of the rows, in the first cross-validation of the chosen C; where a sequence is repeated
            its regression may have seen it in another row.
        flagged: labelled rows that were flagged for anything but being nanobody-like; None = not looked for.
        dropped: of these, rows that were left out, and are not in `rows`: all of them, or 0.
        band: of the card's out-of-fold scores, folds by sequence cluster; None = nothing could be judged, or a linear
            head.
        copies: changed copies of each row that the head was fitted on, too, by name; None = none.
        interval: of a regression's residuals, out of the card's folds; None = nothing could be judged, or too few rows.
        ridge: of a regression alone. cut: if classes were made of measured values.
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
    """How `abonyx calibrate` fitted a head to measured controls.

    Attributes:
        controls, positives: used, and those labelled 1 (None for a linear head).
        source_name, source_sha256: the input's name and its rows' hash.
        slope, intercept: from the logit or value of the head as it was fitted, earlier calibrations included.
        before, after: metric -> value, before this calibration, and after it with each control left out: log_loss,
            brier and ece; or, of a linear head, squared_error and mae in its unit.
    """

    controls: int
    positives: int | None
    source_name: str
    source_sha256: str
    slope: float
    intercept: float
    before: dict[str, float]
    after: dict[str, float]


# Chain of an antibody -> the letters that a numbering gives to its kinds. L: kappa and lambda.
CHAINS = {"H": ("H",), "L": ("K", "L")}
# What a head may expect of a record: one chain, or both chains of an antibody.
CHAIN_SETS = (["H"], ["L"], ["H", "L"])
LOGISTIC, LINEAR = "logistic", "linear"


def chain_letters(chains: Iterable[str]) -> tuple[str, ...]:
    """The letters that a numbering gives to these keys of CHAINS."""
    return tuple(letter for chain in chains for letter in CHAINS[chain])


# Columns of results are called by it. Reserved are names whose columns would be those of something else: p_nonspecific
# of results, charge_change and pI_change of a scan, and the columns of an explanation.
_HEAD_NAME = re.compile("[A-Za-z][A-Za-z0-9_-]{0,39}")
RESERVED_HEAD_NAMES = ("all", "p", "charge", "pi", "id", "chain", "position", "imgt", "region", "residue", "record")
_RESERVED = ", ".join(RESERVED_HEAD_NAMES)
HEAD_NAME_RULE = f"A name has 1 to 40 letters, digits, - and _, begins with a letter, and is none of {_RESERVED}."


def is_head_name(name: str) -> bool:
    """Whether a head may be called this."""
    return _HEAD_NAME.fullmatch(name) is not None and name.lower() not in RESERVED_HEAD_NAMES


# omit_defaults: the manifests of exported bundles do not mention `training` or `placeholder`.
class HeadSpec(_Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One head of the graph.

    Attributes:
        name: what it is chosen by, and what its columns are called by; see is_head_name.
        kind: "logistic", a probability; or "linear", a value in the assay's unit.
        unit: of a linear head's values; None for a probability.
        higher_is_worse: whether a higher value means a worse antibody.
        training_sd: standard deviation of a linear head's training values, in its unit; None for a logistic head.
        intercept: what is added to the sum of its columns of head_sums.
        classes: [specific, non-specific], as trained; of a linear head [].
        chains: keys of CHAINS, those of its training set: other records are flagged. One of CHAIN_SETS. The head has a
            column of head_sums for each.
        source_name, source_sha256: the file it was read from; after `fit` the input's name and its rows' hash.
        encoder: hub id of the encoder it was trained with, as it records it.
        pooling, pooling_batch_size: the pooling rule of its training embeddings; None = not recorded.
        thresholds: assay -> threshold, those the head declares; p strictly greater is non-specific.
        default_threshold: used if neither an assay nor a threshold is given; None for a linear head.
        intercept_shift: added to the intercept at export, 0.0 but for benchmark checkpoints.
        training: how `fit` made it; None for a head read from a file.
        placeholder: there is no head yet: the bundle embeds, and does not score.
        calibration: how its numbers were fitted to controls; None = not at all.
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
        """The letters that a numbering gives to these chains."""
        return chain_letters(self.chains)


class Difference(_Struct, frozen=True, kw_only=True):
    """Max and mean |difference| from PyTorch float32 over the golden set."""

    max: float
    mean: float


class LogisticParity(_Struct, frozen=True, kw_only=True, tag_field="kind", tag=LOGISTIC):
    """A logistic head's differences from PyTorch.

    Attributes:
        label_flips: threshold -> rows whose label differs.
        spearman: rank correlation of logits.
    """

    logit: Difference
    p: Difference
    label_flips: dict[str, int]
    spearman: float


class LinearParity(_Struct, frozen=True, kw_only=True, tag_field="kind", tag=LINEAR):
    """A linear head's differences from PyTorch.

    Attributes:
        value: in standard deviations of its training values.
        spearman: rank correlation of values.
    """

    value: Difference
    spearman: float


class Parity(_Struct, frozen=True, kw_only=True):
    """One variant against PyTorch float32 on the golden set, each golden row alone and unpadded there.

    At fp32 one row of max_residues residues is compared beside the golden rows, at export only.

    Attributes:
        min_cosine: of embeddings.
        heads: name of a head -> its differences, for every head.
        weight_rounding: differences that rounding the weights to float16 alone causes (float32 arithmetic), for fp16,
            of the embedding, and of the first head's logit and p. None elsewhere: fp32 rounds nothing, and
            fp16-weights' own differences are just that. After `fit` the embedding's alone: the others depend on the
            head.
        provider, onnxruntime, torch, transformers: what was compared.
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
        """The largest |dp| of any logistic head; None if there is none."""
        return max((each.p.max for each in self.heads.values() if isinstance(each, LogisticParity)), default=None)

    @property
    def flips(self) -> int:
        """Label flips, over all logistic heads and thresholds."""
        logistic = (each for each in self.heads.values() if isinstance(each, LogisticParity))
        return sum(sum(each.label_flips.values()) for each in logistic)


class ScoreGate(_Struct, frozen=True, kw_only=True, tag_field="kind", tag=LOGISTIC):
    """A logistic head at int8 against fp32 on sequences that int8 was not calibrated on, both on the CPU.

    Attributes:
        label_flips: threshold -> share of the rows whose label differs.
        spearman: rank correlation of logits.
    """

    rows: int
    p: Difference
    logit: Difference
    label_flips: dict[str, float]
    spearman: float


class ValueGate(_Struct, frozen=True, kw_only=True, tag_field="kind", tag=LINEAR):
    """As ScoreGate, of a linear head.

    Attributes:
        value: in standard deviations of its training values.
        spearman: rank correlation of values.
    """

    rows: int
    value: Difference
    spearman: float


class Quantization(_Struct, frozen=True, kw_only=True):
    """How an int8 variant was made.

    Attributes:
        schema_version: of the int8 graph and of this record.
        source: the sequences it was calibrated and judged on; calibration_rows: how many it was calibrated on.
        two_terms: products, as "layer.name", whose input is two int8 terms because the gate asked for it.
        float32: products that stay float32 for the same reason; the others have one term.
        cost: mean time of a product that was predicted, in products of one term.
        gates: name of a head -> what int8 was judged by, for every head.
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
        model: path of the .onnx file in the bundle; everything else in its folder belongs to it.
        precision: a key of tolerances.LIMITS.
        inputs: the graph's inputs; the runtime builds whichever are declared.
        providers: those it is for.
        limits: what export enforced and every open enforces again.
        parity: the record; None only while export is measuring it.
        quantization: of int8 alone.
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
        """Its folder in the bundle."""
        return self.model.rpartition("/")[0]


class FileEntry(_Struct, frozen=True, kw_only=True):
    """Bytes a file must have."""

    sha256: str
    size_bytes: int


# omit_defaults: a bundle without panels does not mention them.
class Manifest(_Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All of manifest.json.

    Attributes:
        name: shown wherever the bundle is named; "" = its directory's (see bundle.Bundle.name).
        notice: one line shown wherever the bundle is named, e.g. that its encoder is untrained; "" = none.
        pooling: the default pooling rule.
        pooled_layers: of "embedding", "last" and numbers of layers before the last; concatenated in this order.
        heads: in the order of head_sums' columns; the first is the default. Chains may differ: a record's heavy chain
            serves every head that expects it.
        default_variant: provider -> variant.
        golden_source: what the golden set was made from.
        files: path in the bundle -> entry, for every file but the manifest.
        panels: whose percentiles scores are given in; the first is the default.
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
    """Write manifest.json, indented, keys in declared order."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (directory / MANIFEST_NAME).write_bytes(text + b"\n")


def read_manifest(directory: Path) -> tuple[Manifest, bytes]:
    """The manifest and its bytes.

    Raises:
        BundleError: no such directory or manifest, not JSON, another schema, paths that leave the bundle.
    """
    path = directory / MANIFEST_NAME
    data = _read_bytes(directory, path)
    return parse_manifest(data, path), data


def _read_bytes(directory: Path, path: Path) -> bytes:
    """The bytes of a plain file of at most MAX_MANIFEST_BYTES; a larger one is not read at all."""
    try:
        if not directory.is_dir():
            raise BundleError(f"{directory}: no such bundle directory", _FIX)
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise BundleError(f"{path}: is a symbolic link", LINK_FIX)
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise BundleError(f"{path}: is not a plain file", _FIX)
        if status.st_size > MAX_MANIFEST_BYTES:
            what = f"{path}: has {status.st_size} bytes, a manifest has at most {MAX_MANIFEST_BYTES}"
            raise BundleError(what, _FIX)
        with path.open("rb") as file:
            return file.read(status.st_size)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}", _FIX) from error


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """As `read_manifest`, of bytes already read; `path` is for the messages only."""
    try:
        schema = msgspec.json.decode(data, type=_SchemaOnly).schema_version
        if schema != SCHEMA_VERSION:
            raise BundleError(
                f"{path}: schema version {first_line(schema)}, this abonyx reads {SCHEMA_VERSION}",
                "Export the bundle again, fit its head again on a bundle of this schema, or install the abonyx version "
                "that wrote it.",
            )
        try:
            manifest = msgspec.json.decode(data, type=Manifest)
        except msgspec.ValidationError:
            _check_quantization_schemas(data, path)  # another schema has other fields
            raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path}: not a manifest: {first_line(error)}", _FIX) from error
    _check_text(msgspec.to_builtins(manifest), path)
    _check_paths(manifest, path)
    _check_values(manifest, path)
    return manifest


def _check_text(value: object, path: Path) -> None:
    """Refuse text that a terminal would obey, or that no file's name can have: summaries print it."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_text(key, path)
            _check_text(item, path)
    elif isinstance(value, list):
        for item in value:
            _check_text(item, path)
    elif isinstance(value, str) and not (value.isprintable() and len(value) <= MAX_TEXT_CHARS):
        shown = ascii(value[:60])
        raise BundleError(f"{path}: text {shown} is long or holds control characters", "Export the bundle again.")


def _check_quantization_schemas(data: bytes, path: Path) -> None:
    for name, variant in msgspec.json.decode(data, type=_VariantsOnly).variants.items():
        if variant.quantization and variant.quantization.schema_version != QUANTIZATION_SCHEMA:
            raise other_quantization(path.parent, name, variant.quantization.schema_version)


def other_quantization(bundle: Path, variant: str, found: int | None) -> BundleError:
    """The error for an int8 variant that was not made as this version makes them."""
    shown = ascii(variant)[1:-1][:60]  # its manifest may be no further checked
    return BundleError(
        f"{bundle}: variant {shown} is int8 of schema {found}, this abonyx reads {QUANTIZATION_SCHEMA}",
        "Export it again: abonyx export --encoder ID_OR_DIR --head FILE --variants fp32,int8 -o NEW_BUNDLE.",
    )


def _check_paths(manifest: Manifest, path: Path) -> None:
    """Every path stays inside the bundle, and every model is a listed file."""
    for name in manifest.files:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name or str(pure) != name:
            raise BundleError(f"{path}: file {name!r} leaves the bundle", "Export the bundle again.")
    for name, variant in manifest.variants.items():
        if variant.model not in manifest.files or "/" not in variant.model:
            raise BundleError(f"{path}: variant {name}: {variant.model!r} is not a listed file", "Export it again.")
    for provider, name in manifest.default_variant.items():
        if name not in manifest.variants:
            raise BundleError(f"{path}: default variant {name!r} of {provider} does not exist", "Export it again.")


def _check_values(manifest: Manifest, path: Path) -> None:
    """Refuse values that no export writes: a score computed from them would be wrong in silence."""
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
        found = f"sha256 {other.encoder_sha256}; this bundle's is {manifest.encoder.weights_sha256}"
        what = f"{path}: panel {other.name} was scored with another encoder, {found}"
        raise BundleError(what, "Add the panel to this bundle with `abonyx reference`.")
    wrong = [name for name, fault in faults.items() if fault]
    if wrong:
        raise BundleError(f"{path}: {', '.join(wrong)}: not what an export writes", "Export the bundle again.")


def _is_whole_head(head: HeadSpec) -> bool:
    """Whether a head has what its kind needs, and nothing of the other's."""
    if not math.isfinite(head.intercept):
        return False
    if head.kind == LOGISTIC:
        return head.unit is None and head.training_sd is None and head.higher_is_worse
    sd = head.training_sd or 0.0
    return head.kind == LINEAR and bool(head.unit) and 0 < sd < math.inf and not (head.classes or head.placeholder)


def _is_trained(head: HeadSpec) -> bool:
    """Whether the training, where it is recorded, is of the head's kind."""
    training = head.training
    if training is None:
        return True
    classes = training.positives is not None and training.c is not None
    return classes == (head.kind == LOGISTIC) and (training.ridge is None) == classes


def _has_thresholds(head: HeadSpec) -> bool:
    """Whether the thresholds are probabilities; a linear head has none."""
    if head.kind == LINEAR:
        return head.default_threshold is None and not head.thresholds
    default = head.default_threshold
    return default is not None and all(0 <= value <= 1 for value in (default, *head.thresholds.values()))


def _has_band(head: HeadSpec) -> bool:
    """Whether the quantiles, where there are some, are of the head's kind: probabilities, or around a value."""
    if head.training is None:
        return True
    band, interval = head.training.band, head.training.interval
    of_calls = band is None or (head.kind == LOGISTIC and band.is_sound())
    return of_calls and (interval is None or (head.kind == LINEAR and interval.is_sound()))


def _is_calibrated(head: HeadSpec) -> bool:
    """Whether a calibration, where there is one, has a slope above 0 and the metrics of the head's kind."""
    found = head.calibration
    if found is None:
        return True
    names = {"log_loss", "brier", "ece"} if head.kind == LOGISTIC else {"squared_error", "mae"}
    numbers = [found.intercept, *found.before.values(), *found.after.values()]
    whole = found.before.keys() == found.after.keys() == names and all(map(math.isfinite, numbers))
    return whole and 0 < found.slope < math.inf


def _are_counts(training: HeadTraining | None) -> bool:
    """Whether the histogram, where there is one, has equal bins and counts each row once."""
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
