"""Every error abonyx raises on purpose.

    EngineError                     1
     ├ ConfigError                  2  an option, a config file, an output path
     │  ├ OutputInUse               2  another run is writing the same output
     │  ├ StoreUnavailable          2  an object store that does not answer, or refuses
     │  └ ResumeRefused             2  an interrupted run that this command cannot resume
     ├ InputError                   3  a file of sequences, labels or a head that cannot be used as given
     │  ├ RecordsRejected           3  records of an otherwise readable file
     │  ├ InputTooLarge             3  more bytes, records or residues than the reader was told to take
     │  ├ LabelsOfOtherKind         3  a label column with values instead of classes, or with classes instead of values
     │  ├ ColumnUnclear             3  which column of a table is meant: none has the name, or several could be meant
     │  └ HeadRefused               3  a classifier file that is not a plain logistic head, or is another encoder's
     ├ BundleError                  4  a bundle that is missing, damaged or of another schema
     │  ├ ChecksumMismatch          4
     │  └ HubUnreachable            4  the hub that a bundle's name means gives no answer
     ├ ProviderError                5  the engine or the device
     │  ├ EngineMissing             5  no onnxruntime distribution, or two side by side
     │  ├ ProviderUnavailable       5  the provider asked for is not there; nothing else was tried
     │  └ OutOfDeviceMemory         5  the device has no memory for the weights, or for a single sequence
     ├ ParityError                  6  numbers off their limit
     │  ├ SelfTestError             6  the golden rows do not come out right on this machine
     │  └ ScoreNotFinite            6  a score or embedding that is NaN or infinite
     ├ RequestRefused               1  HTTP alone: a request that `abonyx serve` does not take, now or at all
     ├ ServiceError                 1  abonyx.client alone: no answer of a service, or one that is not abonyx's
     ├ RunInterrupted             130  a signal stopped a run; what was done is kept where it can be
     └ SessionError                 1
        ├ SessionInUse              1  a second open
        ├ SessionClosed             1  use before open or after close
        └ SessionForked             1  use in a forked child

The number is the command line's exit code (docs/errors.md). A message says what, where, both values where two
disagree, and what to do next.
"""

from __future__ import annotations

from abonyx.wording import Interface, in_words

# Of a message's text, and of its advice: far above the longest that abonyx writes itself.
MOST_CHARS = 10_000


class EngineError(Exception):
    """Root of the tree.

    Args:
        what: what went wrong, where, with both values where two disagree.
        fix: what the user can do next; one sentence. Both name an option by its mark (wording.option).

    Attributes:
        what: what went wrong, in the words of Python, as str(error) has it.
        fix: what to do next, likewise.
        marked: what and fix as given, marks included: for an error made of this one.
        request_id: of an error that abonyx.client raises: the id of the request in the service's log; else None.
    """

    exit_code = 1
    request_id: str | None = None

    def __init__(self, what: str, fix: str = "") -> None:
        # A value is shortened where it is quoted (printable, first_line); this bounds whatever was forgotten.
        self.marked = _shortened(what), _shortened(fix)
        self.what, self.fix = self.worded(Interface.PYTHON)
        super().__init__(self.text(Interface.PYTHON))

    def worded(self, interface: Interface) -> tuple[str, str]:
        """What and fix in the words of an interface."""
        what, fix = self.marked
        return in_words(what, interface), in_words(fix, interface)

    def text(self, interface: Interface) -> str:
        """The whole message in the words of an interface."""
        return "\n".join(part for part in self.worded(interface) if part)


class ConfigError(EngineError):
    """A bad option, config file or output path; names the key and what is allowed."""

    exit_code = 2


class OutputInUse(ConfigError):
    """Another run is writing the same output; names it."""


class StoreUnavailable(ConfigError):
    """An object store does not answer, or refuses: no such bucket, no credentials, no permission."""


class ResumeRefused(ConfigError):
    """An interrupted run's files cannot be resumed; names what differs, both values."""


class InputError(EngineError):
    """A file that cannot be read as what it should be; names file and line."""

    exit_code = 3


class LabelsOfOtherKind(InputError):
    """A label column that holds measured values in place of classes, or classes in place of values."""


class RecordsRejected(InputError):
    """Records of a readable file that cannot be scored; shows the first ten.

    Args:
        what, fix: as every EngineError.
        records: all of them: id, line (of a list the number of the item, from 1) and reason.
    """

    def __init__(self, what: str, fix: str = "", *, records: tuple[tuple[str, int, str], ...] = ()) -> None:
        super().__init__(what, fix)
        self.records = records


class InputTooLarge(InputError):
    """More bytes, records or residues than the caller takes; names the limit."""


class ColumnUnclear(InputError):
    """No column of a table has the name, or several could be meant; shows the names.

    Args:
        what, fix: as every EngineError.
        columns: names that may be given instead; empty if they are too many or too long for a choice.
    """

    def __init__(self, what: str, fix: str = "", *, columns: tuple[str, ...] = ()) -> None:
        super().__init__(what, fix)
        self.columns = columns


class HeadRefused(InputError):
    """A classifier file that is not a plain logistic head; names the class or the value that is in the way."""


class BundleError(EngineError):
    """A bundle that is missing, damaged, or of another schema."""

    exit_code = 4


class ChecksumMismatch(BundleError):
    """A bundle file whose bytes are not those the manifest was written for."""


class HubUnreachable(BundleError):
    """The hub that a bundle's name means gives no answer, or a broken one."""


class ProviderError(EngineError):
    """The engine or the device cannot do what was asked."""

    exit_code = 5


class EngineMissing(ProviderError):
    """No onnxruntime distribution is installed, or two are side by side."""


class ProviderUnavailable(ProviderError):
    """The provider asked for is not available here; says what was found and what to install."""


class OutOfDeviceMemory(ProviderError):
    """The device has no memory for the weights or a batch; the token budget is halved until one sequence is left."""


class ParityError(EngineError):
    """A number over its limit; names metric, value, limit and the worst record."""

    exit_code = 6


class SelfTestError(ParityError):
    """The bundle's golden rows do not come out right on this machine."""


class ScoreNotFinite(ParityError):
    """A score or embedding is NaN or infinite; names the ids."""


class RequestRefused(EngineError):
    """A request that the service does not take: no token, a limit of its clients, no model, no time left.

    Args:
        status: of the HTTP answer.
        reason: a fixed word, as the metrics count it.
        what, fix: as every EngineError.
        retry_after_s: when the same request may be taken; None = there is no telling.
    """

    def __init__(self, status: int, reason: str, what: str, fix: str = "", *, retry_after_s: int | None = None) -> None:
        super().__init__(what, fix)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


class ServiceError(EngineError):
    """A service that cannot be reached, does not answer in time, or answers something that is not abonyx's."""


class RunInterrupted(EngineError):
    """A signal stopped a run; says how far it was and how to go on."""

    exit_code = 130


class SessionError(EngineError):
    """A session used against its life cycle."""


class SessionInUse(SessionError):
    """A second session was opened; names where the first was."""


class SessionClosed(SessionError):
    """A session was used before open or after close."""


class SessionForked(SessionError):
    """A session was used in a process forked after it was opened."""


def _shortened(text: str) -> str:
    if len(text) <= MOST_CHARS:
        return text
    return f"{text[:MOST_CHARS]}... ({len(text) - MOST_CHARS} more characters)"


def printable(name: str) -> str:
    """An id as a message may show it: short, on one line, without a terminal's control characters."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name[:60])
    return shown + ("..." if len(name) > 60 else "")


def first_line(text: object, most: int = 200) -> str:
    """What another library's error, or a value, says, as a message may quote it: one line, cut, nothing unprintable.

    A line that ends with a colon takes the next one with it: alone it says nothing.

    Args:
        text: an error, or repr(value).
        most: characters that are kept.
    """
    lines = [line for line in str(text)[: 100 * most].splitlines() if line.strip()]
    if not lines and isinstance(text, BaseException):
        lines = [type(text).__name__]
    count = 2 if lines and lines[0].rstrip().endswith(":") else 1
    whole = " ".join(line.strip() for line in lines[:count])
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in whole[:most])
    return shown + ("..." if len(whole) > most else "")
