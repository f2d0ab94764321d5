"""The output of a run that can be killed at any point and resumed.

Beside OUT stand OUT.partial, which grows a window at a time, and OUT.journal. In this order: a window's bytes to the
disk, then the journal's line that counts them; when all rows are there, the line that says so, then the renames, OUT
last. Before either, the
journal names the partial files: one that no journal names is somebody else's, and never touched. To go on, each partial
file is compared with the journal's last line and cut to its length, so that a window that
was half written is written again.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from abonyx.errors import ConfigError, ResumeRefused
from abonyx.hashing import file_sha256
from abonyx.output.files import (
    CONVERTED_SUFFIX,
    PartialFile,
    failing_as,
    flush_directory,
    give_mode,
    not_own,
    partial_path,
    partial_paths,
    resolved,
)
from abonyx.output.journal import Complete, Halved, Header, Journal, Window, differences
from abonyx.output.progress import read_progress, rows_journalled
from abonyx.wording import option

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from abonyx.output.formats import Columns, Format


class ResumableOutput:
    """An output that windows of rows are appended to. Make it with open_resumable.

    Attributes:
        rows_done: rows on the disk.
        token_budget, window_size: what the rest has to be scored with, or other batches change scores' last bits.
        notes: what earlier processes of the run had to say.
    """

    def __init__(self, targets: Sequence[Path], format: Format, header: Header) -> None:
        self._targets, self._format, self._header = targets, format, header
        self._files = [PartialFile(target) for target in targets]
        self._complete: Complete | None = None
        self._begun_here = False
        self.rows_done = 0
        self.token_budget, self.window_size = header.token_budget, header.window_size
        self.notes: list[str] = []
        self._journal = Journal(targets[-1])

    @property
    def rows(self) -> int:
        """Rows in all."""
        return self._header.rows

    def open(self, restart: bool) -> None:
        """Go on with what is there, or begin."""
        if restart:
            self._journal.read_first()
        else:
            self._journal.read()
            self._refuse_another_run()
        if rows_journalled(self._journal) == 0:
            self._begin()
        else:
            self._go_on()
        self._journal.start()

    def append(self, stop: int, columns: Columns) -> None:
        """Add the rows from rows_done to before `stop`. They are on the disk when this returns."""
        for file, data in zip(self._files, self._format.encode(self.rows_done, columns), strict=True):
            if data:
                file.write(data)
                file.flush()
        self._count(stop)

    def halved(self, token_budget: int, note: str) -> None:
        """Note that the rest is scored with another token budget."""
        self._journal.append(Halved(token_budget, note))

    def finish(self) -> None:
        """Rename the files onto their places; the output is whole, and the journal gone, when this returns."""
        if self.rows_done != self.rows:
            raise ValueError(f"{self._targets[-1]}: {self.rows_done} rows were written, {self.rows} announced")
        if self._complete is None or self._lost_conversion():
            sha256 = self._sha256()
            if self._format.convert is not None:
                sha256[-1] = self._convert()
            self._flush_directories()  # a name that a power cut takes back must not be counted as complete
            self._complete = Complete(sha256)
            self._journal.append(self._complete)
        self.close_files()
        for target, path, sha256_ in zip(self._targets, self._ready_paths(), self._complete.sha256, strict=True):
            self._place(target, path, sha256_)
        self._flush_directories()
        if self._format.convert is not None:  # what it was made from
            self._remove(self._files[-1].path)
            self._flush_directories()  # a power cut must not leave a file that no journal names
        self._journal.remove()

    def close_files(self) -> None:
        """Close the partial files; they stay."""
        for file in self._files:
            file.close()

    def leave(self) -> None:
        """End without finishing: rows that are done stay, to be resumed; without any, nothing is left."""
        if self._begun_here and self.rows_done == 0:
            for file in self._files:
                file.discard()
            self._flush_directories()  # a power cut must not leave a file that no journal names
        if self.rows_done == 0 and (self._begun_here or self._journal.is_empty()):
            with suppress(ConfigError):
                self._journal.remove()
        for file in self._files:
            with suppress(ConfigError):
                file.close()
        self._journal.close()

    def _refuse_another_run(self) -> None:
        done = rows_journalled(self._journal)
        for line in self._journal.lines:
            if isinstance(line, Header) and done and (found := differences(line.identity, self._header.identity)):
                target = self._targets[-1]
                raise ResumeRefused(
                    f"output {target}: an interrupted run left {done} of {line.rows} rows in {self._files[-1].path}, "
                    "and this command is another run:\n  " + "\n  ".join(found),
                    "Give that run's command again to resume it, name another output, or start again with "
                    f"{option('restart')}, which drops those rows.",
                )

    def _begin(self) -> None:
        self._clear()
        self._begun_here = True
        self._journal.empty()
        self._journal.append(msgspec.structs.replace(self._header, files=[*map(self._name, self._own_paths())]))
        self._flush_directories()  # the journal's name, too, before there is a file that it names
        for file, head in zip(self._files, self._format.head, strict=True):
            file.begin()
            file.write(head)
            file.flush()
        self._flush_directories()  # the names, too, before any line counts bytes under them
        self._count(0)

    def _clear(self) -> None:
        """Remove the partial files of the run that the journal begins with; refuse those that it does not name.

        Raises:
            ResumeRefused: names the file, which stays.
        """
        header = self._journal.lines[0] if self._journal.lines else None
        named = set(header.files) if isinstance(header, Header) else set()
        own = self._own_paths()
        there = [path for path in {*own, *partial_paths(self._targets[-1])} if os.path.lexists(path)]
        for path in sorted(there):
            if path in own and self._name(path) not in named:
                raise not_own(path)
        for path in there:
            if self._name(path) in named:
                self._remove(path)
        self._flush_directories()

    def _remove(self, path: Path) -> None:
        """Remove a partial file that the journal names, while that is still the one that a run finds."""
        self._journal.refuse_replaced()
        with failing_as(path):
            path.unlink(missing_ok=True)

    def _own_paths(self) -> list[Path]:
        """Every partial file of this run."""
        converted = [] if self._format.convert is None else [partial_path(self._targets[-1], CONVERTED_SUFFIX)]
        return [*(file.path for file in self._files), *converted]

    def _name(self, path: Path) -> str:
        """A partial file as the journal names it: the directory may be moved, and JSON holds no bytes but UTF-8."""
        relative = os.path.relpath(path, self._journal.path.parent)
        return relative.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

    def _go_on(self) -> None:
        progress = read_progress(self._journal, self.rows, len(self._files))
        self.token_budget, self.window_size = progress.token_budget, progress.window_size
        self.notes, self._complete, last = progress.notes, progress.complete, progress.window
        if self._complete is None or self._lost_conversion():
            for file, size_bytes, sha256 in zip(self._files, last.size_bytes, last.sha256, strict=True):
                file.go_on(size_bytes, sha256)
        self.rows_done = last.rows_done

    def _flush_directories(self) -> None:
        for directory in {self._journal.path.parent, *(file.path.parent for file in self._files)}:
            flush_directory(directory)

    def _lost_conversion(self) -> bool:
        """Whether a converted file is not what the journal says it is, though what it was made from is still there."""
        if self._complete is None or self._format.convert is None or not self._files[-1].path.exists():
            return False
        sha256, target = self._complete.sha256[-1], self._targets[-1]
        return not any(_has(path, sha256) for path in (self._ready_paths()[-1], resolved(target)))

    def _count(self, rows_done: int) -> None:
        self._journal.append(Window(rows_done, [file.size_bytes for file in self._files], self._sha256()))
        self.rows_done = rows_done

    def _sha256(self) -> list[str]:
        return [file.sha256 for file in self._files]

    def _convert(self) -> str:
        """Make the last file from what was gathered; return its hash."""
        assert self._format.convert is not None
        gathered_file = self._files[-1]
        if not _has(gathered_file.path, gathered_file.sha256):
            what = f"{gathered_file.path}: holds other bytes than the run wrote"
            raise ResumeRefused(what, f"Let nothing else write there, and start again with {option('restart')}.")
        whole = PartialFile(self._targets[-1], CONVERTED_SUFFIX)
        self._remove(whole.path)  # an earlier process's: the journal names it
        try:
            whole.begin()
            with failing_as(self._files[-1].path):
                gathered = self._files[-1].path.open("rb")
            with gathered:
                self._format.convert(gathered, whole)
            whole.flush()
            whole.close()
        except BaseException:
            whole.discard()
            raise
        return whole.sha256

    def _ready_paths(self) -> list[Path]:
        paths = [file.path for file in self._files]
        if self._format.convert is not None:
            paths[-1] = partial_path(self._targets[-1], CONVERTED_SUFFIX)
        return paths

    def _place(self, target: Path, path: Path, sha256: str) -> None:
        """Rename a file onto its place if its bytes are those that the journal counts."""
        final, fix = resolved(target), f"Let nothing else write there, and start again with {option('restart')}."
        with failing_as(target):
            if not os.path.lexists(path):
                if not _has(final, sha256):  # not renamed by an earlier process of this run, then
                    raise ResumeRefused(f"{path}: missing, though the journal says it is whole", fix)
                return
            give_mode(path, target)  # before the hash: it moves the change time
            before = path.lstat()
            if not _has(path, sha256):
                found = file_sha256(path) if path.is_file() and not path.is_symlink() else "none: it is not a file"
                raise ResumeRefused(f"{path}: sha256 {found}, the journal says {sha256}", fix)
            if _stamp(path.lstat()) != _stamp(before):
                raise ResumeRefused(f"{path}: was written to while it was put in its place", fix)
            path.replace(final)
            if not os.path.samestat(before, final.lstat()):
                raise ResumeRefused(f"{final}: was replaced while it was put in its place", fix)


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _has(path: Path, sha256: str) -> bool:
    """Whether a plain file of that hash is there."""
    return path.is_file() and not path.is_symlink() and file_sha256(path) == sha256


@contextmanager
def open_resumable(
    targets: Sequence[Path], format: Format, header: Header, *, restart: bool
) -> Iterator[ResumableOutput]:
    """Give the output to append to, from row `rows_done` on; it stands at its place once the block ends well.

    Args:
        targets: the files in the order in which they take their places, OUT last.
        format: how rows become bytes; a head for each file.
        header: what the run is.
        restart: drop what an earlier run left.

    Raises:
        OutputInUse: another run is writing it.
        ResumeRefused: an earlier run left rows, and was another one, or its files are damaged.
        ConfigError: it cannot be written.
    """
    output = ResumableOutput(targets, format, header)
    try:
        output.open(restart)
        yield output
        output.finish()
    except BaseException:
        output.leave()
        raise
