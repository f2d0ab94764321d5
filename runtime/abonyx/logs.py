"""The log of the command line, on standard error: lines of text or of JSON. Results never go there."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import sys
from collections.abc import Iterator

from abonyx.wording import Interface, in_words

LOGGER = logging.getLogger("abonyx")
# Attribute of a log record: more fields for its line of JSON, as name -> value.
FIELDS = "abonyx_fields"


def _python_words(record: logging.LogRecord) -> bool:
    """A filter that passes every line, and gives options their Python names."""
    record.msg, record.args = in_words(record.getMessage(), Interface.PYTHON), None
    return True


# The filter is for the handlers of a Python program. The command line removes it: its handler uses other words.
LOGGER.addFilter(_python_words)


class _Stderr(logging.Handler):
    """Write to sys.stderr, looked up for each line, because a progress bar replaces sys.stderr while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if sys.stderr is not None:
                sys.stderr.write(self.format(record) + "\n")
                sys.stderr.flush()
        except (OSError, ValueError):  # a closed terminal or pipe must not end a run
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
    """Send the log to standard error, at level INFO; at level DEBUG after a call of `verbose`."""
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
    """Also log each step."""
    LOGGER.setLevel(logging.DEBUG)
