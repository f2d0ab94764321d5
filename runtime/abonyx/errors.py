"""Every error abonyx raises on purpose.

    EngineError                     1
     ├ ConfigError                  2  an option, a config file, an output path
     │  ├ OutputInUse               2  another run is writing the same output
     │  ├ StoreUnavailable          2  an object store that does not answer, or refuses a request
     │  └ ResumeRefused             2  an interrupted run that this command cannot resume
     ├ InputError                   3  a file of sequences, labels or a head that cannot be used as given
     │  ├ RecordsRejected           3  records of an otherwise readable file
     │  ├ InputTooLarge             3  more bytes, records or residues than the limit
     │  ├ LabelsOfOtherKind         3  a label column with values instead of classes, or with classes instead of values
     │  ├ ColumnUnclear             3  no column of a table has the name, or several columns could be meant
     │  └ HeadRefused               3  a classifier file that is not a plain logistic head, or is for another encoder
     ├ BundleError                  4  a bundle that is missing, damaged or of another schema
     │  ├ ChecksumMismatch          4
     │  └ HubUnreachable            4  the hub that the bundle is on gives no answer
     ├ ProviderError                5  the engine or the device
     │  ├ EngineMissing             5  no onnxruntime distribution, or two side by side
     │  ├ ProviderUnavailable       5  the requested provider is not available; abonyx tries no other
     │  └ OutOfDeviceMemory         5  the device has no memory for the weights, or for a single sequence
     ├ ParityError                  6  a number that differs by more than its limit
     │  ├ SelfTestError             6  the golden rows give other numbers on this machine
     │  └ ScoreNotFinite            6  a score or embedding that is NaN or infinite
     ├ RequestRefused               1  HTTP only: `abonyx serve` refuses a request, for now or for good
     ├ ServiceError                 1  abonyx.client only: a service gives no answer, or not an answer of abonyx
     ├ RunInterrupted             130  a signal stopped a run; finished work is kept if possible
     └ SessionError                 1
        ├ SessionInUse              1  a second open
        ├ SessionClosed             1  use before open or after close
        └ SessionForked             1  use in a forked child

The number is the exit code of the command line (docs/errors.md). A message says what is wrong, where, both values if
two disagree, and what to do next.
"""

from __future__ import annotations

from abonyx.wording import Interface, in_words

# Most characters of a message, and of its advice. Texts that abonyx writes on purpose are far shorter.
MOST_CHARS = 10_000


class EngineError(Exception):
    """Base class of every error that abonyx raises on purpose.

    Args:
        what: what went wrong and where, with both values if two disagree. It names options by wording.option.
        fix: what the user can do next. It names options by wording.option too.

    Attributes:
        what: what went wrong. Options have their Python names.
        fix: what to do next. Options have their Python names.
        marked: (what, fix) as they were given, with the marks of options. Use it to make another error from this one.
        request_id: the id of the request in the service's log, if abonyx.client raised the error; else None.
    """

    exit_code = 1
    request_id: str | None = None

    def __init__(self, what: str, fix: str = "") -> None:
        # Code that quotes a value shortens it (printable, first_line). This second limit is for code that does not.
        self.marked = _shortened(what), _shortened(fix)
        self.what, self.fix = self.worded(Interface.PYTHON)
        super().__init__(self.text(Interface.PYTHON))

    def worded(self, interface: Interface) -> tuple[str, str]:
        """(what, fix) in the words of an interface."""
        what, fix = self.marked
        return in_words(what, interface), in_words(fix, interface)

    def text(self, interface: Interface) -> str:
        """The whole message in the words of an interface."""
        return "\n".join(part for part in self.worded(interface) if part)


class ConfigError(EngineError):
    """An option, a config file or an output path is wrong. The message names the key and the allowed values."""

    exit_code = 2


class OutputInUse(ConfigError):
    """Another run is writing the same output. The message names that run."""


class StoreUnavailable(ConfigError):
    """An object store does not answer, or refuses: no such bucket, no credentials, or no permission."""


class ResumeRefused(ConfigError):
    """An interrupted run cannot be resumed by this command. The message names what differs, with both values."""


class InputError(EngineError):
    """An input cannot be used. The message names the file and the line, or the argument."""

    exit_code = 3


class LabelsOfOtherKind(InputError):
    """A label column holds measured values instead of classes, or classes instead of values."""


class RecordsRejected(InputError):
    """Some records of a readable file cannot be scored. The message shows the first ten.

    Args:
        what, fix: as for every EngineError.
        records: (id, line, reason) of every such record. For a list, the line is the number of the item, from 1.
    """

    def __init__(self, what: str, fix: str = "", *, records: tuple[tuple[str, int, str], ...] = ()) -> None:
        super().__init__(what, fix)
        self.records = records


class InputTooLarge(InputError):
    """The input has more bytes, records or residues than the limit. The message names the limit."""


class ColumnUnclear(InputError):
    """No column of a table has the name, or several columns could be meant. The message shows their names.

    Args:
        what, fix: as for every EngineError.
        columns: the names that can be given instead; empty if they are too many or too long to show.
    """

    def __init__(self, what: str, fix: str = "", *, columns: tuple[str, ...] = ()) -> None:
        super().__init__(what, fix)
        self.columns = columns


class HeadRefused(InputError):
    """A classifier file does not hold a plain logistic head. The message names the class or the value that is wrong."""


class BundleError(EngineError):
    """A bundle is missing, is damaged, or has another schema."""

    exit_code = 4


class ChecksumMismatch(BundleError):
    """The size or the hash of a bundle's file, or the hash of a bundle, is not the expected one."""


class HubUnreachable(BundleError):
    """The bundle's hub gives no answer or a broken answer, or cannot serve the request now."""


class ProviderError(EngineError):
    """ONNX Runtime or the device cannot do what was requested."""

    exit_code = 5


class EngineMissing(ProviderError):
    """No distribution of ONNX Runtime is installed, or two are installed and overwrite each other."""


class ProviderUnavailable(ProviderError):
    """The requested provider is not available here. The message says which are, and what to install."""


class OutOfDeviceMemory(ProviderError):
    """The device has no memory for the weights, or for a batch of one sequence. Larger batches are halved first."""


class ParityError(EngineError):
    """A number differs by more than its limit. The message names the metric, both values and the worst record."""

    exit_code = 6


class SelfTestError(ParityError):
    """The golden rows of the bundle give other numbers on this machine than the bundle stores."""


class ScoreNotFinite(ParityError):
    """A score or an embedding is NaN or infinite. The message names the ids."""


class RequestRefused(EngineError):
    """The service refuses a request: the token is missing, a limit is reached, no model is open, or time is up.

    Args:
        status: status code of the HTTP answer.
        reason: a fixed word, which the metrics count.
        what, fix: as for every EngineError.
        retry_after_s: seconds after which the same request may succeed; None = not known.
    """

    def __init__(self, status: int, reason: str, what: str, fix: str = "", *, retry_after_s: int | None = None) -> None:
        super().__init__(what, fix)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


class ServiceError(EngineError):
    """A service cannot be reached, does not answer in time, or does not answer as abonyx does."""


class RunInterrupted(EngineError):
    """A signal stopped a run. The message says how much was done and how to resume."""

    exit_code = 130


class SessionError(EngineError):
    """A session cannot be used in its present state."""


class SessionInUse(SessionError):
    """A second session was opened. The message names the file and line that opened the first."""


class SessionClosed(SessionError):
    """A session was used before open or after close."""


class SessionForked(SessionError):
    """A session was used in a process forked after it was opened."""


def _shortened(text: str) -> str:
    if len(text) <= MOST_CHARS:
        return text
    return f"{text[:MOST_CHARS]}... ({len(text) - MOST_CHARS} more characters)"


def printable(name: str) -> str:
    """An id as a message shows it: at most 60 characters, on one line, without control characters."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name[:60])
    return shown + ("..." if len(name) > 60 else "")


def first_line(text: object, most: int = 200) -> str:
    """The first line of another library's error, or of a value, as a message quotes it: short, no control characters.

    If the first line ends with a colon, the next line is added, because the first line alone says nothing.

    Args:
        text: an error, or repr(value).
        most: largest number of characters.
    """
    lines = [line for line in str(text)[: 100 * most].splitlines() if line.strip()]
    if not lines and isinstance(text, BaseException):
        lines = [type(text).__name__]
    count = 2 if lines and lines[0].rstrip().endswith(":") else 1
    whole = " ".join(line.strip() for line in lines[:count])
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in whole[:most])
    return shown + ("..." if len(whole) > most else "")
