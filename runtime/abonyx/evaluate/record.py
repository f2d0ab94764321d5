"""metrics.json: its fields, and the same facts as the report and the summary print them."""

from __future__ import annotations

import msgspec

from abonyx.card.record import Card
from abonyx.evaluate.metrics import Metric
from abonyx.evaluate.parents import ByParent
from abonyx.evaluate.stability import Stability, ValueStability

# Percent identity of identical sequences.
_IDENTICAL = 100
# What the flags of the domain depend on -> its value, from domain.DomainRule.facts.
DomainFacts = dict[str, str | bool | None]


class Bootstrap(msgspec.Struct, frozen=True, kw_only=True):
    """How the intervals were made: rows drawn with replacement from all labels, unless stratified."""

    resamples: int
    seed: int
    interval: str = "95 % percentile"
    stratified: bool = False


class Unflagged(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics without the flagged rows; fields as EvaluationRecord's."""

    n: int
    n_positive: int | None
    n_negative: int | None
    metrics: dict[str, Metric]
    confusion_matrix: list[list[int]] | None


class ValueFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about the values of a linear head.

    Attributes:
        lowest, highest: of the measured values.
    """

    unit: str
    higher_is_worse: bool
    lowest: float
    highest: float

    @property
    def words(self) -> str:
        """The unit and the direction, to follow the head's name."""
        return f"value in {self.unit}, {'higher' if self.higher_is_worse else 'lower'} is worse"


class EvaluationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All of metrics.json.

    Attributes:
        input: the file's name; input_sha256: of its bytes.
        head: name of the head that was evaluated.
        values: facts about the values of a head; None if it gives a probability.
        n: labelled rows, flagged or not, from which the metrics are computed.
        n_positive, n_negative: rows labelled 1 and 0; None for values.
        n_flagged: how many of n have no call because they are flagged; None if flags were not looked for.
        flags: reason -> scored rows that have it, with a label or without; a row may have several.
        unflagged: the metrics without the n_flagged rows; None if no row is left, or flags were not looked for.
        domain: how chain and domain were judged.
        n_unlabelled: rows scored and left out of the metrics; n_rejected: records not scored.
        threshold: p strictly above it is called 1; None for values.
        assay: the assay of the threshold; None if none was requested.
        precision: of the variant, or bf16 if the arithmetic was bfloat16.
        confusion_matrix: [[TN, FP], [FN, TP]]; None for values.
        notes: what a reader must know of the numbers, such as why one is null.
        card: how far to trust the head on this set.
        stability: how many calls flip, or how far values move, if sequences are changed; None if not requested.
        by_parent: agreement among variants of one parent; None if not requested.
        schema_version: of the card and its place in this file.
        date: UTC.
        command: as it was typed; None if a program called.
    """

    input: str
    input_sha256: str
    head: str
    values: ValueFacts | None
    n: int
    n_positive: int | None
    n_negative: int | None
    n_unlabelled: int
    n_rejected: int
    n_flagged: int | None
    flags: dict[str, int]
    threshold: float | None
    assay: str | None
    metrics: dict[str, Metric]
    confusion_matrix: list[list[int]] | None
    unflagged: Unflagged | None
    bootstrap: Bootstrap
    bundle: str
    bundle_sha256: str
    config_sha256: str
    variant: str
    precision: str
    provider: str
    pooling: str
    domain: DomainFacts
    notes: list[str]
    version: str
    card: Card
    stability: Stability | ValueStability | None
    by_parent: ByParent | None
    schema_version: int
    date: str
    command: str | None
    bundle_hub: str | None = None

    def encode(self) -> bytes:
        """Return the file's bytes."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def facts(self) -> list[tuple[str, str]]:
        """Return the name and value of each row of the report's table."""
        values = self.values
        return [
            ("date", self.date),
            *([("command", self.command)] if self.command else []),
            ("input", f"{self.input}, sha256 {self.input_sha256}"),
            ("head", self.head if values is None else f"{self.head}, {values.words}"),
            ("rows with a label", self._labelled()),
            ("rows without a label", f"{self.n_unlabelled:,}"),
            ("rows flagged", self._flags()),
            ("records rejected", f"{self.n_rejected:,}"),
            *self._calls(),
            (
                "intervals",
                f"{self.bootstrap.interval}, {self.bootstrap.resamples:,} bootstrap resamples of rows, "
                f"seed {self.bootstrap.seed}",
            ),
            ("bundle", f"{self.bundle}, sha256 {self.bundle_sha256}"),
            *([("bundle from", self.bundle_hub)] if self.bundle_hub else []),
            ("variant", f"{self.variant} on {self.provider}, precision {self.precision}"),
            ("pooling", self.pooling),
            ("domain", "; ".join(f"{name}: {_word(value)}" for name, value in self.domain.items())),
            ("config", f"sha256 {self.config_sha256}"),
            ("abonyx", self.version),
        ]

    def rows_line(self) -> str:
        """What was compared, to follow the conclusion."""
        kind = f"head {self.head}" if self.values is None else f"head {self.head} ({self.values.words})"
        return f"{kind}; rows with a label: {self._labelled()}; {self.date}"

    def _labelled(self) -> str:
        if self.values is not None:
            return f"{self.n:,}: {self.values.lowest:.4g} to {self.values.highest:.4g} {self.values.unit}"
        return f"{self.n:,}: {self.n_negative:,} specific, {self.n_positive:,} non-specific"

    def _calls(self) -> list[tuple[str, str]]:
        """The rows about calls; none for values."""
        if self.threshold is None or self.confusion_matrix is None:
            return []
        (tn, fp), (fn, tp) = self.confusion_matrix
        return [
            ("threshold", f"p > {self.threshold:g}" + (f" ({self.assay})" if self.assay else "")),
            ("confusion", f"TN {tn:,}, FP {fp:,}, FN {fn:,}, TP {tp:,}"),
        ]

    def lines(self, name: str) -> list[str]:
        """Return the summary's lines.

        They are: n and metrics of all labelled rows, and of those without a flag; the card's sentence, and how its
        interval was made; stability; variants of one parent.
        """
        unflagged = f"{name}, flagged rows left out: {self._unflagged_line()}"
        more = [f"{name}: {measured.line()}" for measured in (self.stability, self.by_parent) if measured]
        drawn = self.drawn("the line above")
        said = [f"{name}: {drawn}"] if drawn else []
        return [self._line(name), unflagged, f"{name}: {self.card.sentence}", *said, *more]

    def drawn(self, place: str) -> str:
        """Why the interval of the card's sentence differs from those of the metrics; "" if the sentence has none.

        Args:
            place: where the reader finds the sentence.
        """
        folds = self.card.folds
        if folds is None or "interval" not in self.card.sentence:
            return ""
        alike = (
            "identical sequences"
            if folds.level == _IDENTICAL
            else f"similar sequences (linked at {folds.level} % identity)"
        )
        return (
            f"the interval in {place} is from draws of whole clusters of {alike}, whose labels tend to be alike; "
            "the intervals of the metrics are from draws of single rows, and are often narrower"
        )

    def _line(self, name: str) -> str:
        aside = [f"{self.n_unlabelled} not labelled"] if self.n_unlabelled else []
        aside += [f"{self.n_rejected} rejected"] if self.n_rejected else []
        total = self.n + self.n_unlabelled + self.n_rejected
        rows = f"{self.n} labelled of {total}" + (f" ({', '.join(aside)})" if aside else "")
        return f"{name}: {rows}, {self._shown(self.metrics)}"

    def _unflagged_line(self) -> str:
        if self.n_flagged is None:
            return "not known: chain and domain were not looked at"
        if not self.n_flagged:
            return f"the same {self.n} labelled rows, none is flagged"
        if self.unflagged is None:
            return f"no row is left: all {self.n} labelled rows are flagged"
        return f"{self.unflagged.n} labelled, {self._shown(self.unflagged.metrics)}"

    def _shown(self, metrics: dict[str, Metric]) -> str:
        if self.values is not None:
            error = f"mean absolute error {metrics['mae'].text('.4g')} {self.values.unit}"
            return f"Spearman {metrics['spearman'].text()}, R2 {metrics['r2'].text()}, {error}"
        return f"accuracy {metrics['accuracy'].text()}, ROC AUC {metrics['roc_auc'].text()}"

    def _flags(self) -> str:
        if self.n_flagged is None:
            return "not looked for"
        counts = ", ".join(f"{name} {count:,}" for name, count in self.flags.items())
        return f"{self.n_flagged:,} of the rows with a label" + (f"; flags of all rows: {counts}" if counts else "")


def _word(value: str | bool | None) -> str:
    return {True: "yes", False: "no", None: "nothing"}[value] if value is None or isinstance(value, bool) else value
