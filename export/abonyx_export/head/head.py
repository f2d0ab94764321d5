"""Read a fitted logistic head from a file, without scikit-learn and without running anything in the file.

A head is a row of weights, an intercept and perhaps a StandardScaler. Anything that may be something else is refused,
because a wrong probability without an error is worse than no probability.

The file has over 300 lines, so that one file decides which heads are accepted.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import tokenize
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from abonyx.arrays import Float64Array
from abonyx.bundle.manifest import LINEAR, LOGISTIC
from abonyx.bundle.selftest import as_pairs
from abonyx.errors import HeadRefused, first_line
from abonyx_export.head.advice import LOGISTIC as LOGISTIC_CLASSES
from abonyx_export.head.advice import REFIT, SAVE_AGAIN, SAVE_ALONE
from abonyx_export.head.unpickle import MAX_UNPACKED_BYTES, Bag, parse_pickle, read_file

PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib")
# The old pipeline's pooling rule, and its BinaryClassifier.ASSAY_THRESHOLDS (non-specific is strictly above).
UPSTREAM_POOLING = "upstream-batch"
UPSTREAM_THRESHOLDS = {"elisa": 0.5, "psr": 0.5495}
# Values of multi_class for which predict_proba of two classes is sigmoid(z). In scikit-learn before 1.8 only
# 'multinomial' differs: it is softmax over (-z, z), which is sigmoid(2z). 'ovr' and 'warn' are always sigmoid(z);
# 'auto' and 'deprecated' are sigmoid(z) for two classes with any solver. Since 1.8 there is no parameter, and two
# classes mean sigmoid(z).
_SIGMOID_MULTI_CLASS = (None, "auto", "ovr", "warn", "deprecated")
_MODEL_TYPES = ("LogisticRegression", "logistic_regression")  # the old pipeline's JSON before and since 0.6
_REQUIRED_ARRAYS = ("coef", "intercept", "classes")
_KNOWN_ARRAYS = (*_REQUIRED_ARRAYS, "n_features_in", "n_iter", "mean", "scale")
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))  # types of a fitted LogisticRegression
_NPZ_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, EOFError, ValueError, LookupError, NotImplementedError, RuntimeError),
    *(SyntaxError, MemoryError, OverflowError, TypeError, tokenize.TokenError, Warning),  # numpy's header parser
)
# A real head has two steps. Without a limit, a file that lists a large scaler thousands of times would take hours.
MAX_STEPS = 8
# Name of a head for which the user gives no name.
DEFAULT_NAME = "nonspecificity"
_REFIT = "Refit it with scikit-learn."


@dataclass(frozen=True, eq=False)  # comparing arrays with == gives arrays
class Head:
    """A logistic head, p = sigmoid(((x - mean) / scale) . coef + intercept), or a linear head without the sigmoid.

    Attributes:
        coef: (D,) float64. For a head on two chains, coef, mean and scale are (2 D,), the heavy chain's first.
        intercept: added to the product.
        mean: (D,) float64, subtracted from the embedding; None = nothing is subtracted.
        scale: (D,) float64 above 0, by which the embedding is divided; None = it is not divided.
        classes: the labels; p is the probability of the second one. () for a linear head.
        source_name: the file's name, without its folder.
        source_sha256: hash of the file.
        encoder: repository id of the encoder that the head was trained with; None = the file does not say.
        encoder_revision: revision of that encoder; None = the file does not say.
        pooling: "upstream-batch" for the old pipeline's heads; None = the file does not say.
        pooling_batch_size: sequences per batch in that pooling.
        thresholds: assay -> threshold on p, as declared by the head.
        name, unit, higher_is_worse, training_sd: see manifest.HeadSpec.
        chain_count: number of chains whose embeddings the head takes side by side.
        sklearn_version: version of scikit-learn that fitted the head; None = the file does not say.
        intercept_shift: what `recentred` added to the file's intercept.
        placeholder: whether this is `placeholder_head`, which `fit` replaces.
    """

    coef: Float64Array
    intercept: float
    mean: Float64Array | None
    scale: Float64Array | None
    classes: tuple[int, ...]
    source_name: str
    source_sha256: str
    encoder: str | None = None
    encoder_revision: str | None = None
    pooling: str | None = None
    pooling_batch_size: int | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    sklearn_version: str | None = None
    intercept_shift: float = 0.0
    placeholder: bool = False
    name: str = DEFAULT_NAME
    unit: str | None = None
    higher_is_worse: bool = True
    training_sd: float | None = None
    chain_count: int = 1

    @property
    def kind(self) -> str:
        """The kind for manifest.HeadSpec: logistic or linear."""
        return LOGISTIC if self.training_sd is None else LINEAR

    def __post_init__(self) -> None:
        if self.coef.ndim != 1 or self.coef.dtype != np.float64 or not self.coef.size:
            raise HeadRefused(f"{self.source_name}: coef is {_show(self.coef)}, not a row of float64", _REFIT)
        for name, values in (("coef", self.coef), ("mean", self.mean), ("scale", self.scale)):
            if values is not None and values.shape != self.coef.shape:
                what = f"{self.source_name}: the scaler's {name} is {_show(values)}, coef {_show(self.coef)}"
                raise HeadRefused(what, _REFIT)
            if values is not None and not np.isfinite(values).all():
                at = int(np.flatnonzero(~np.isfinite(values))[0])
                raise HeadRefused(f"{self.source_name}: {name}[{at}] is {values[at]}, not a finite number", _REFIT)
        if not np.isfinite(self.intercept):
            raise HeadRefused(f"{self.source_name}: the intercept is {self.intercept}, not a finite number", _REFIT)
        if self.scale is not None and not (self.scale > 0).all():
            at = int(np.argmin(self.scale))
            raise HeadRefused(f"{self.source_name}: scale[{at}] is {self.scale[at]}; it must be above 0", _REFIT)

    def weights(self) -> tuple[Float64Array, float]:
        """Weights w (D,) float64 and intercept b with the scaler folded in: logit = x . w + b."""
        weights = self.coef if self.scale is None else self.coef / self.scale
        return weights, self.intercept - (0.0 if self.mean is None else float(self.mean @ weights))

    def logit(self, embedding: npt.NDArray[np.floating]) -> Float64Array:
        """Log-odds of a logistic head, or values of a linear head, (n,) float64, for embeddings (n, D)."""
        weights, intercept = self.weights()
        return embedding.astype(np.float64) @ weights + intercept

    def parts(self) -> list[Head]:
        """One head on (n, D) for each chain. Their sum is this head; only the first one has the intercept."""
        if self.chain_count == 1:
            return [self]

        def split(values: Float64Array | None) -> list[Float64Array] | list[None]:
            return [None] * self.chain_count if values is None else np.split(values, self.chain_count)

        columns = zip(np.split(self.coef, self.chain_count), split(self.mean), split(self.scale), strict=True)
        return [
            replace(self, coef=coef, mean=mean, scale=scale, intercept=0.0 if at else self.intercept, chain_count=1)
            for at, (coef, mean, scale) in enumerate(columns)
        ]

    def logit_of_rows(self, embedding: npt.NDArray[np.floating]) -> Float64Array:
        """Like logit, for embeddings (n, D) of single chains. For a head of two chains, as_pairs pairs them."""
        total: Float64Array = np.sum(as_pairs([part.logit(embedding) for part in self.parts()]), axis=0)
        return total

    def recentred(self, shift: float) -> Head:
        """The same head with `shift` added to every logit."""
        return replace(self, intercept=self.intercept + shift, intercept_shift=self.intercept_shift + shift)


def placeholder_head(embedding: npt.NDArray[np.floating]) -> Head:
    """A head without meaning, for a bundle without a head: every check of the encoder needs a logit.

    Args:
        embedding: (n, D) rows; the head's logits on them have median 0 and standard deviation 1.
    """
    rows = embedding.astype(np.float64)
    direction = np.random.default_rng(0).standard_normal(rows.shape[1])
    coef = direction / (rows @ direction).std()
    intercept = -float(np.median(rows @ coef))
    return Head(coef, intercept, None, None, (0, 1), "none", hashlib.sha256().hexdigest(), placeholder=True)


def read_head(path: Path) -> Head:
    """Read the logistic head in a file. Nothing in the file is executed.

    Args:
        path: one of two kinds of files. A .pkl, .pickle or .joblib holds one of LOGISTIC_CLASSES, a Pipeline of
            StandardScalers and one of these classes, or the old pipeline's BinaryClassifier. An .npz holds coef (1, D),
            intercept (1,), classes (2,), and perhaps mean and scale (D,). It may have a STEM_config.json or STEM.json
            in the same folder.

    Raises:
        HeadRefused: the file may be something other than one binary logistic head with labels 0 and 1.
    """
    suffix = path.suffix.lower()
    if suffix != ".npz" and suffix not in PICKLE_SUFFIXES:
        known = ", ".join((".npz", *PICKLE_SUFFIXES))
        raise HeadRefused(f"{path} has the suffix {suffix!r}; a head's file has {known}", SAVE_ALONE)
    data = read_file(path)
    head = _from_npz(data, path) if suffix == ".npz" else _from_pickle(parse_pickle(data, path), path)
    return replace(head, source_sha256=hashlib.sha256(data).hexdigest())


def _from_pickle(value: object, path: Path) -> Head:
    if _class_name(value) != "BinaryClassifier":
        return _from_estimator(value, path)
    state = _bag(value, path).state
    if state.get("is_fitted") is not True:
        raise HeadRefused(f"{path}: BinaryClassifier has is_fitted {_show(state.get('is_fitted'))}, not True", _REFIT)
    classifier = state.get("classifier")
    if _class_name(classifier) == "LogisticRegressionStrategy":  # since 0.6 the old pipeline wraps the estimator
        classifier = _bag(classifier, path).state.get("classifier")
    head = _from_estimator(classifier, path)
    return _of_old_pipeline(head, path, state.get("model_name"), state.get("revision"), state.get("batch_size"))


def _from_estimator(value: object, path: Path) -> Head:
    """The head of one of LOGISTIC_CLASSES, or of a Pipeline of StandardScalers that ends in one of them."""
    steps: list[object] = [value]
    if _class_name(value) == "Pipeline":
        pairs = _bag(value, path).state.get("steps")
        if not isinstance(pairs, list) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            raise HeadRefused(f"{path}: the Pipeline's steps are {_show(pairs)}, not (name, step) pairs", _REFIT)
        if len(pairs) > MAX_STEPS:
            raise HeadRefused(f"{path}: the Pipeline has {len(pairs)} steps, at most {MAX_STEPS} are allowed", _REFIT)
        steps = [step for _, step in pairs if not (step is None or (isinstance(step, str) and step == "passthrough"))]
    names = [_class_name(step) for step in steps]
    if not names or names[-1] not in LOGISTIC_CLASSES or any(name != "StandardScaler" for name in names[:-1]):
        what = f"{path} holds {' -> '.join(names[:9]) or 'an empty Pipeline'}"
        what += f"; a head is one of {', '.join(LOGISTIC_CLASSES)}, alone or after StandardScaler steps"
        raise HeadRefused(what, SAVE_ALONE if _class_name(value) in ("dict", "list", "tuple") else REFIT)
    state = _bag(steps[-1], path).state
    _check_multi_class(state.get("multi_class"), path)
    missing = [name for name in ("coef_", "intercept_", "classes_") if state.get(name) is None]
    if missing:
        raise HeadRefused(f"{path}: the {names[-1]} is not fitted: it has no {', '.join(missing)}", _REFIT)
    head = _logistic(path, state["coef_"], state["intercept_"], state["classes_"], state.get("n_features_in_"))
    for step in reversed(steps[:-1]):
        head = _behind_scaler(head, _bag(step, path).state, path)
    return replace(head, sklearn_version=_text(path, "_sklearn_version", state.get("_sklearn_version")))


def _behind_scaler(head: Head, state: dict[str, object], path: Path) -> Head:
    """Put a StandardScaler before a head: ((x - m) / s - m2) / s2 = (x - (m + s m2)) / (s s2)."""
    _check_width(path, "StandardScaler", state.get("n_features_in_"), head.coef)
    # A scaler may have mean_ and scale_ and not use them: with_mean and with_std decide, as in its transform.
    mean, scale = (
        _row(path, name, state.get(name)) if state.get(flag) is True else None
        for name, flag in (("mean_", "with_mean"), ("scale_", "with_std"))
    )
    checked = replace(head, mean=mean, scale=scale)
    if head.mean is not None:
        shift = head.mean if scale is None else scale * head.mean
        mean = shift if mean is None else mean + shift
    if head.scale is not None:
        scale = head.scale if scale is None else scale * head.scale
    return replace(checked, mean=mean, scale=scale)


def _check_multi_class(value: object, path: Path) -> None:
    if not (value is None or isinstance(value, str)) or value not in _SIGMOID_MULTI_CLASS:
        what = f"{path}: multi_class is {_show(value)}, not one of {_SIGMOID_MULTI_CLASS}"
        raise HeadRefused(
            f"{what}; for two classes, 'multinomial' means p = sigmoid(2z), not sigmoid(z)",
            "Refit it with multi_class='auto', or with scikit-learn 1.8 or later.",
        )


def _logistic(path: Path, coef: object, intercept: object, classes: object, features: object) -> Head:
    """A head without a scaler: one row of weights, labels 0 and 1."""
    labels = classes.tolist() if isinstance(classes, np.ndarray) else classes
    if not isinstance(labels, list) or len(labels) != 2:
        many = f"{len(labels)} classes" if isinstance(labels, list) else f"classes {_show(labels)}"
        raise HeadRefused(f"{path}: the classifier has {many}; a head has 2 classes", _REFIT)
    if not all(isinstance(label, int | float) for label in labels) or labels != [0, 1]:
        what = f"{path}: the classes are {', '.join(map(_show, labels))}, not 0, 1, so that the meaning of p is unknown"
        raise HeadRefused(what, "Refit it with labels 0 (specific) and 1 (non-specific).")
    if not isinstance(coef, np.ndarray) or coef.ndim != 2 or coef.shape[0] != 1:
        raise HeadRefused(f"{path}: coef is {_show(coef)}; for two classes it must be (1, D)", _REFIT)
    offset = np.array([intercept]) if isinstance(intercept, float) else intercept  # liblinear's 0.0
    if not isinstance(offset, np.ndarray) or offset.shape != (1,):
        raise HeadRefused(f"{path}: the intercept is {_show(intercept)}; for two classes it must be (1,)", _REFIT)
    row = _row(path, "coef", coef[0])
    _check_width(path, "the classifier", features, row)
    return Head(row, float(_row(path, "intercept", offset)[0]), None, None, (0, 1), path.name, "")


def _row(path: Path, name: str, values: object) -> Float64Array:
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype not in _FLOATS:
        raise HeadRefused(f"{path}: {name} is {_show(values)}, not a row of float64 or float32", _REFIT)
    row = values.astype(np.float64)
    row.setflags(write=False)
    return row


def _check_width(path: Path, what: str, declared: object, coef: Float64Array) -> None:
    if declared is not None and (not isinstance(declared, int) or declared != coef.size):
        raise HeadRefused(f"{path}: {what} has {_show(declared)} features, coef has {coef.size}", _REFIT)


def _of_old_pipeline(head: Head, path: Path, encoder: object, revision: object, batch_size: object) -> Head:
    if not isinstance(encoder, str) or type(batch_size) is not int or batch_size < 1:
        what = f"{path}: the encoder is {_show(encoder)}, the batch size {_show(batch_size)}"
        raise HeadRefused(f"{what}; they must be a text and a whole number of 1 or more", _REFIT)
    return replace(
        head,
        encoder=encoder,
        encoder_revision=_text(path, "revision", revision),
        pooling=UPSTREAM_POOLING,
        pooling_batch_size=batch_size,
        thresholds=dict(UPSTREAM_THRESHOLDS),
    )


def _text(path: Path, name: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise HeadRefused(f"{path}: {name} is {_show(value)}, not text", _REFIT)


def _bag(value: object, path: Path) -> Bag:
    if isinstance(value, Bag):
        return value
    raise HeadRefused(f"{path} holds {_show(value)}, not a classifier", SAVE_ALONE)


def _class_name(value: object) -> str:
    return value.class_name.rpartition(".")[2] if isinstance(value, Bag) else type(value).__name__


def _show(value: object) -> str:
    """Describe a value of the file in a few words, because the value may be long."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return repr(value)[:60] if value is None or isinstance(value, str | int | float) else _class_name(value)


def _from_npz(data: bytes, path: Path) -> Head:
    arrays = _read_npz(data, path)
    missing, unknown = set(_REQUIRED_ARRAYS) - set(arrays), set(arrays) - set(_KNOWN_ARRAYS)
    if missing or unknown:
        what = f"{path}: missing arrays: {sorted(missing)}, unknown arrays: {sorted(unknown)[:9]}"
        fix = f"Save {', '.join(_REQUIRED_ARRAYS)}; optional: {', '.join(_KNOWN_ARRAYS[3:])}."
        raise HeadRefused(f"{what}; found: {sorted(arrays)[:20]}", fix)
    features = arrays["n_features_in"].ravel().tolist() if "n_features_in" in arrays else [None]
    declared = features[0] if len(features) == 1 else features
    head = _logistic(path, arrays["coef"], arrays["intercept"], arrays["classes"], declared)
    mean, scale = (_row(path, name, arrays[name]) if name in arrays else None for name in ("mean", "scale"))
    return _with_config(replace(head, mean=mean, scale=scale), path)


def _read_npz(data: bytes, path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of an .npz. Declared sizes are checked before unpacking; arrays of objects are refused."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            total = sum(entry.file_size for entry in entries)
            if total > MAX_UNPACKED_BYTES:
                raise HeadRefused(f"{path} unpacks to {total} bytes, the limit is {MAX_UNPACKED_BYTES}", _REFIT)
            if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
                raise ValueError("numpy does not compress this way")
            return {entry.filename.removesuffix(".npy"): _array(archive.read(entry)) for entry in entries}
    except _NPZ_ERRORS as error:
        raise HeadRefused(
            f"{path} is cut short, damaged or not an .npz of numbers: {first_line(error)}", SAVE_AGAIN
        ) from None


def _array(npy: bytes) -> npt.NDArray[np.generic]:
    stream = io.BytesIO(npy)
    version = np.lib.format.read_magic(stream)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, _, dtype = read_header(stream)
    # Check the size first: numpy allocates the size in the header before it reads.
    if dtype.kind not in "biufU" or math.prod(shape) * dtype.itemsize != len(npy) - stream.tell():
        raise ValueError(f"an array of {dtype} {shape} has {len(npy) - stream.tell()} bytes")
    array: npt.NDArray[np.generic] = np.load(io.BytesIO(npy), allow_pickle=False)
    return array


def _with_config(head: Head, path: Path) -> Head:
    """Add the facts about the training from STEM_config.json or STEM.json beside the .npz."""
    found = [config for end in ("_config", "") if (config := path.with_name(f"{path.stem}{end}.json")).exists()]
    if len(found) == 2:
        raise HeadRefused(f"{path} has two configs: {found[0].name} and {found[1].name}", "Remove the wrong one.")
    if not found:
        return head
    try:
        config = json.loads(read_file(found[0]))
    except (ValueError, RecursionError) as error:
        raise HeadRefused(f"{found[0]} is not JSON: {first_line(error)}", "Restore it, or move it away.") from None
    kind = config.get("model_type", "LogisticRegression") if isinstance(config, dict) else None
    if kind not in _MODEL_TYPES:
        raise HeadRefused(f"{found[0]}: model_type is {_show(kind)}, not one of {_MODEL_TYPES}", _REFIT)
    _check_multi_class(config.get("multi_class"), found[0])
    head = replace(head, sklearn_version=_text(found[0], "sklearn_version", config.get("sklearn_version")))
    if config.get("esm_model") is None:
        return head
    return _of_old_pipeline(head, found[0], config["esm_model"], config.get("esm_revision"), config.get("batch_size"))
