"""The command line's log, on standard error: a line of text each, or of JSON. Results never go there."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import sys
from collections.abc import Iterator

from abonyx.wording import Interface, in_words

LOGGER = logging.getLogger("abonyx")
# A record's attribute: name -> value of what its line of JSON has beside the message.
FIELDS = "abonyx_fields"


def _python_words(record: logging.LogRecord) -> bool:
    """A filter that lets every line pass, with the options in Python's words."""
    record.msg, record.args = in_words(record.getMessage(), Interface.PYTHON), None
    return True


# A Python program may send the log to handlers of its own; the command line's handler has other words.
LOGGER.addFilter(_python_words)


class _Stderr(logging.Handler):
    """Writes to what sys.stderr is at that moment: a progress bar stands in for it while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if sys.stderr is not None:
                sys.stderr.write(self.format(record) + "\n")
                sys.stderr.flush()
        except (OSError, ValueError):  # a terminal or a pipe that is gone does not end a run
            return


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = in_words(super().format(record), Interface.COMMAND_LINE)
        return f"abonyx: {text}" if record.levelno >= logging.ERROR else text


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": at,
            "level": record.levelname.lower(),
            "message": in_words(record.getMessage(), Interface.COMMAND_LINE),
        }
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


@contextlib.contextmanager
def to_stderr(*, as_json: bool) -> Iterator[None]:
    """Send the log to standard error: what a run says of itself, and more once `verbose` was called."""
    handler = _Stderr()
    handler.setFormatter(_Json() if as_json else _Text())
    LOGGER.addHandler(handler)
    LOGGER.removeFilter(_python_words)
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.addFilter(_python_words)
        LOGGER.setLevel(logging.NOTSET)


def verbose() -> None:
    """Log each step too."""
    LOGGER.setLevel(logging.DEBUG)
