"""metrics.json: its fields, and the same facts as the report and the summary print them."""

from __future__ import annotations

import msgspec

from abonyx.evaluate.metrics import Metric


class Bootstrap(msgspec.Struct, frozen=True, kw_only=True):
    """How the intervals were made: rows drawn with replacement, whatever their label, unless stratified."""

    resamples: int
    seed: int
    interval: str = "95 % percentile"
    stratified: bool = False


class EvaluationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All of metrics.json.

    Attributes:
        input: the file's name; input_sha256: of its bytes.
        n: labelled rows, which the metrics are of; n_positive and n_negative of them have label 1 and 0.
        n_unlabelled: rows scored and left out of the metrics; n_rejected: records not scored.
        threshold: p strictly above it is called 1; assay: whose it is, None where none was asked for.
        precision: the variant's, or bf16 where the arithmetic was that.
        confusion_matrix: [[TN, FP], [FN, TP]].
        notes: what a reader must know of the numbers, such as why one is null.
    """

    input: str
    input_sha256: str
    n: int
    n_positive: int
    n_negative: int
    n_unlabelled: int
    n_rejected: int
    threshold: float
    assay: str | None
    metrics: dict[str, Metric]
    confusion_matrix: list[list[int]]
    bootstrap: Bootstrap
    bundle: str
    bundle_sha256: str
    config_sha256: str
    variant: str
    precision: str
    provider: str
    pooling: str
    notes: list[str]
    version: str

    def encode(self) -> bytes:
        """Return the file's bytes."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def facts(self) -> list[tuple[str, str]]:
        """Return name and value of each row of the report's table."""
        (tn, fp), (fn, tp) = self.confusion_matrix
        return [
            ("input", f"{self.input}, sha256 {self.input_sha256}"),
            ("rows with a label", f"{self.n:,}: {self.n_negative:,} specific, {self.n_positive:,} non-specific"),
            ("rows without", f"{self.n_unlabelled:,}"),
            ("records rejected", f"{self.n_rejected:,}"),
            ("threshold", f"p > {self.threshold:g}" + (f" ({self.assay})" if self.assay else "")),
            ("confusion", f"TN {tn:,}, FP {fp:,}, FN {fn:,}, TP {tp:,}"),
            (
                "intervals",
                f"{self.bootstrap.interval}, {self.bootstrap.resamples:,} bootstrap resamples of rows, "
                f"seed {self.bootstrap.seed}",
            ),
            ("bundle", f"{self.bundle}, sha256 {self.bundle_sha256}"),
            ("variant", f"{self.variant} on {self.provider}, precision {self.precision}"),
            ("pooling", self.pooling),
            ("config", f"sha256 {self.config_sha256}"),
            ("abonyx", self.version),
        ]

    def line(self, name: str) -> str:
        """Return the summary's line: how many rows, accuracy and ROC AUC."""
        aside = [f"{self.n_unlabelled} not labelled"] if self.n_unlabelled else []
        aside += [f"{self.n_rejected} rejected"] if self.n_rejected else []
        total = self.n + self.n_unlabelled + self.n_rejected
        rows = f"{self.n} labelled of {total}" + (f" ({', '.join(aside)})" if aside else "")
        accuracy, area = self.metrics["accuracy"].text(), self.metrics["roc_auc"].text()
        return f"{name}: {rows}, accuracy {accuracy}, ROC AUC {area}"
