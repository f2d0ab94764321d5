"""The first open of a bundle on this machine, in a child process: a crash of the engine ends only the child.

A graph that has only known operators can still crash a process, and a check of the file cannot exclude a crash. So if
the whole self-test of a bundle has never passed on this machine, a child process opens the bundle and runs the
self-test. The cache remembers a passed self-test, so this happens once. The child ends before this process loads the
model, so two models are never in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from abonyx import errors
from abonyx.config import RuntimeConfig
from abonyx.engine.process import can_start_python, search_path
from abonyx.errors import BundleError, EngineError, OutOfDeviceMemory, SessionClosed, first_line

# Hash of the manifest of artifacts/mini. The tests open that bundle, so it needs no child process.
MINI_SHA256 = "98456987f8c7cc1ed6b57752fe67697b7862c687e08b07bc3d6f22a215b1ca7c"
# The child gets the parent's search path, because it must import the same abonyx.
_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from abonyx import first_open; first_open.serve()"
# This variable is set in the child, so that the child never starts another child.
_GUARD = "ABONYX_FIRST_OPEN"
# Far longer than a real self-test: 33 layers on two cores take 37 s.
MAX_SECONDS = 1_800.0
_POLL_SECONDS = 0.1
_PROC = Path("/proc/self")


class EngineUse(msgspec.Struct, frozen=True):
    """Files, sockets, processes and threads that opening a model adds to its process. Read from /proc on Linux.

    Attributes:
        files: open or mapped files, except executable code and the files of the Python installation.
        sockets: number of open sockets.
        children: number of child processes.
        threads: number of new threads.
    """

    files: list[str]
    sockets: int
    children: int
    threads: int


class FirstOpen(msgspec.Struct, frozen=True):
    """What a child reports after the whole self-test passed in it.

    Attributes:
        bundle_sha256, variant: the bundle and the variant that it opened.
        differences: metric -> max |difference| from PyTorch.
        use: what opening the model added to the child; None if not requested, or if the system does not report it.
    """

    bundle_sha256: str
    variant: str
    differences: dict[str, float]
    use: EngineUse | None = None


class _Answer(msgspec.Struct):
    """The child's answer: a FirstOpen, or an error as (class name, what, fix)."""

    found: FirstOpen | None = None
    error: tuple[str, str, str] | None = None


def open_in_child(
    config: RuntimeConfig, *, deep: bool = False, cancelled: Callable[[], bool] = lambda: False
) -> FirstOpen | None:
    """Open the config's bundle in a child process, run its whole self-test there, and close it.

    Args:
        deep: whether to report an EngineUse: what opening the model adds to the child.
        cancelled: called ten times a second; if it returns true, the child is ended.

    Returns:
        The child's report; None if no child is started, because this interpreter is embedded or frozen, or this process
        is such a child.

    Raises:
        EngineError: the child raised this error.
        BundleError: a signal, e.g. SIGFPE, ended the child, or the child did not end within MAX_SECONDS.
        OutOfDeviceMemory: SIGKILL ended the child; the system sends it if memory runs out.
        SessionClosed: `cancelled` returned true.
    """
    if not can_start_python() or os.environ.get(_GUARD):
        return None
    # json and not msgspec: json escapes surrogates, which a path may have.
    request = json.dumps({"config": dataclasses.asdict(config), "deep": deep}).encode() + b"\n"
    with _child() as (process, stdin, stdout):
        with contextlib.suppress(BrokenPipeError):  # the child has ended; its status says why
            stdin.write(request)
            stdin.flush()
        data = _answer_of(stdout, config, cancelled)
        status = process.wait()
    if not data:
        raise _ended(config, status)
    answer = msgspec.convert(json.loads(data), type=_Answer)
    if answer.error is not None:
        raise _raised(*answer.error)
    return answer.found


def _answer_of(stdout: IO[bytes], config: RuntimeConfig, cancelled: Callable[[], bool]) -> bytes:
    """All bytes that the child writes. A thread reads them, so that this function can stop waiting for them."""
    found: list[bytes] = []
    reading = threading.Thread(target=lambda: found.append(stdout.read()), daemon=True)
    reading.start()
    deadline = time.monotonic() + MAX_SECONDS
    while reading.is_alive():
        reading.join(_POLL_SECONDS)
        if cancelled():
            raise SessionClosed("session was closed while it was opened", "Open it again.")
        if time.monotonic() > deadline:
            what = f"{config.bundle}: the trial process that opened it first did not end within {MAX_SECONDS:.0f} s"
            raise BundleError(
                what, "Try another provider or variant. Do not use a bundle from somebody you do not trust."
            )
    return b"".join(found)


def _ended(config: RuntimeConfig, status: int) -> EngineError:
    name = signal.Signals(-status).name if status < 0 else f"exit code {status}"
    what = f"{config.bundle}: the trial process that opened it first ended with {name}"
    if status == -getattr(signal, "SIGKILL", 9):
        return OutOfDeviceMemory(f"{what}: out of memory?", "Free memory, or use a smaller variant.")
    return BundleError(
        what,
        "Do not use a bundle from somebody you do not trust. If it is your own, export it again, or try another "
        "version of ONNX Runtime. Please report this message.",
    )


def _raised(name: str, what: str, fix: str) -> EngineError:
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, EngineError):
        return kind(what, fix)
    return BundleError(f"{what} ({name})", fix)


@contextlib.contextmanager
def _child() -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]]:
    """A child process, which is ended at the end of the block."""
    process: subprocess.Popen[bytes] = subprocess.Popen(
        [sys.executable, "-I", "-c", _CHILD, *search_path()],  # -I: the environment does not change what it imports
        env=os.environ | {_GUARD: "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # its errors are in its answer
    )
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None and stdout is not None
    try:
        yield process, stdin, stdout
    finally:
        process.kill()
        for stream in (stdin, stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        process.wait()


def serve() -> None:
    """Run as the child: read one request, write one answer, end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C too, and ends its child
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # text that a library prints must not mix with the answer
    request = json.loads(sys.stdin.buffer.readline() or b"null")
    if request is None:  # the parent has ended
        return
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer = _Answer(found=_try(msgspec.convert(request["config"], type=RuntimeConfig), deep=request["deep"]))
    except EngineError as error:
        answer = _Answer(error=(type(error).__name__, *error.marked))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = (
            f"the trial process that opened the bundle first failed: {first_line(error)} "
            f"({Path(place.filename).name}:{place.lineno})"
        )
        answer = _Answer(error=(type(error).__name__, what, "Please report this message."))
    with contextlib.suppress(BrokenPipeError), answers:
        answers.write(json.dumps(msgspec.to_builtins(answer)).encode())
    os._exit(0)  # a normal exit would wait for the thread


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # returns when the parent ends
    os._exit(1)


def _try(config: RuntimeConfig, *, deep: bool) -> FirstOpen:
    from abonyx.model import open_model  # here, because abonyx.model imports this module

    before = _held() if deep else None
    with open_model(config, self_test="full", direct=True) as model:
        after = _held() if deep else None
        if before is None or after is None:
            return FirstOpen(model.bundle.sha256, model.variant_name, model.differences)
        files, sockets, children, threads = (now - then for now, then in zip(after, before, strict=True))
        use = EngineUse(sorted(files), len(sockets), len(children), len(threads))
        return FirstOpen(model.bundle.sha256, model.variant_name, model.differences, use)


def _held() -> tuple[set[str], set[str], set[str], set[str]] | None:
    """Files, sockets, children and threads of this process; None if the system does not report them."""
    try:
        links = _links(_PROC / "fd")
        lines = [line.split(None, 5) for line in (_PROC / "maps").read_text(errors="surrogateescape").splitlines()]
        tasks = [path.name for path in (_PROC / "task").iterdir()]
        children = {child for task in tasks for child in (_PROC / "task" / task / "children").read_text().split()}
    except OSError:
        return None
    mapped = {fields[5] for fields in lines if len(fields) > 5 and "x" not in fields[1]}
    code = {fields[5] for fields in lines if len(fields) > 5 and "x" in fields[1]}
    prefixes = tuple({sys.prefix, sys.base_prefix})
    files = {
        name
        for name in {*mapped, *links} - code
        if name.startswith("/") and not name.startswith((*prefixes, "/dev/", "/proc/", "/sys/"))
    }
    return files, {link for link in links if link.startswith("socket:")}, children, set(tasks)


def _links(directory: Path) -> list[str]:
    """The targets of the links in a directory. The link of the listing is closed by then, so it is left out."""
    links = []
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(str(path.readlink()))
    return links
