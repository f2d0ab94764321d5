"""The output of a run that can be killed at any point and resumed.

Beside OUT are OUT.partial, to which windows are appended, and OUT.journal. The order of writes is important:

1. The journal names the partial files. A partial file that no journal names belongs to somebody else, and is never
   changed.
2. For each window: its bytes are written to the disk, then a line of the journal that counts them.
3. After the last window: a line that says that the files are whole, then the renames, OUT last.

When a run is resumed, each partial file is compared with the last window line of the journal, and cut to the length
that this line gives. So a window that was half written is written again.
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
    """An output to which windows of rows are appended. open_resumable makes it.

    Attributes:
        rows_done: number of rows on the disk.
        token_budget, window_size: the values for the remaining rows. With other values, the batches would
            differ, and so would the last bits of scores.
        notes: notes from earlier processes of the run.
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
        """Number of all rows."""
        return self._header.rows

    def open(self, restart: bool) -> None:
        """Resume an interrupted run, or begin."""
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
        """Add the rows from rows_done up to, but not including, `stop`. They are on the disk when this returns."""
        for file, data in zip(self._files, self._format.encode(self.rows_done, columns), strict=True):
            if data:
                file.write(data)
                file.flush()
        self._count(stop)

    def halved(self, token_budget: int, note: str) -> None:
        """Note that the remaining rows use another token budget."""
        self._journal.append(Halved(token_budget, note))

    def finish(self) -> None:
        """Rename the files to their final names. When this returns, the output is whole and the journal is removed."""
        if self.rows_done != self.rows:
            raise ValueError(f"{self._targets[-1]}: {self.rows_done} rows were written, {self.rows} announced")
        if self._complete is None or self._lost_conversion():
            sha256 = self._sha256()
            if self._format.convert is not None:
                sha256[-1] = self._convert()
            self._flush_directories()  # names must be on the disk before the run counts as complete
            self._complete = Complete(sha256)
            self._journal.append(self._complete)
        self.close_files()
        for target, path, sha256_ in zip(self._targets, self._ready_paths(), self._complete.sha256, strict=True):
            self._place(target, path, sha256_)
        self._flush_directories()
        if self._format.convert is not None:  # remove the gathered rows
            self._remove(self._files[-1].path)
            self._flush_directories()  # a power cut must not leave a file that no journal names
        self._journal.remove()

    def close_files(self) -> None:
        """Close the partial files, without removing them."""
        for file in self._files:
            file.close()

    def leave(self) -> None:
        """End an unfinished run. Finished rows are kept for a resume. If there are none, all files are removed."""
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
                    "but this command differs from it:\n  " + "\n  ".join(found),
                    "Give that run's command to resume it, name another output, or start again with "
                    f"{option('restart')}, which discards those rows.",
                )

    def _begin(self) -> None:
        self._clear()
        self._begun_here = True
        self._journal.empty()
        self._journal.append(msgspec.structs.replace(self._header, files=[*map(self._name, self._own_paths())]))
        self._flush_directories()  # the journal's name must be on the disk before a file that it names
        for file, head in zip(self._files, self._format.head, strict=True):
            file.begin()
            file.write(head)
            file.flush()
        self._flush_directories()  # the names must be on the disk before a line that counts bytes
        self._count(0)

    def _clear(self) -> None:
        """Remove the partial files that the journal names.

        Raises:
            ResumeRefused: a partial file exists that the journal does not name. The file stays.
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
        """Remove a partial file that the journal names, if the journal is still at its path."""
        self._journal.refuse_replaced()
        with failing_as(path):
            path.unlink(missing_ok=True)

    def _own_paths(self) -> list[Path]:
        """Paths of all partial files of this run."""
        converted = [] if self._format.convert is None else [partial_path(self._targets[-1], CONVERTED_SUFFIX)]
        return [*(file.path for file in self._files), *converted]

    def _name(self, path: Path) -> str:
        """The name of a partial file in the journal: relative, because the directory may be moved; in valid UTF-8."""
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
        """Whether a converted file is missing or wrong, and can be made again from the gathered rows."""
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
        """Make the last file from the gathered rows; return its hash."""
        assert self._format.convert is not None
        gathered_file = self._files[-1]
        if not _has(gathered_file.path, gathered_file.sha256):
            what = f"{gathered_file.path}: has other bytes than the run wrote"
            raise ResumeRefused(what, f"Let no other program write there, and start again with {option('restart')}.")
        whole = PartialFile(self._targets[-1], CONVERTED_SUFFIX)
        self._remove(whole.path)  # left by an earlier process of this run
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
        """Rename a file to its final name, if it has the hash that the journal says."""
        final, fix = resolved(target), f"Let no other program write there, and start again with {option('restart')}."
        with failing_as(target):
            if not os.path.lexists(path):
                if not _has(final, sha256):  # no earlier process of this run has renamed it
                    raise ResumeRefused(f"{path}: is missing, but the journal says it is whole", fix)
                return
            give_mode(path, target)  # before the stamps are compared, because this changes the change time
            before = path.lstat()
            if not _has(path, sha256):
                found = file_sha256(path) if path.is_file() and not path.is_symlink() else "none: it is not a file"
                raise ResumeRefused(f"{path}: sha256 is {found}, the journal says {sha256}", fix)
            if _stamp(path.lstat()) != _stamp(before):
                raise ResumeRefused(f"{path}: was changed while it was renamed", fix)
            path.replace(final)
            if not os.path.samestat(before, final.lstat()):
                raise ResumeRefused(f"{final}: was replaced while it was renamed", fix)


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _has(path: Path, sha256: str) -> bool:
    """Whether a plain file with this hash is at the path."""
    return path.is_file() and not path.is_symlink() and file_sha256(path) == sha256


@contextmanager
def open_resumable(
    targets: Sequence[Path], format: Format, header: Header, *, restart: bool
) -> Iterator[ResumableOutput]:
    """Yield an output to append to, from row `rows_done` on. It gets its final name if the block succeeds.

    Args:
        targets: the files in the order of their renames, OUT last.
        format: the format, with a head for each file.
        header: description of the run.
        restart: whether to discard the rows of an interrupted run.

    Raises:
        OutputInUse: another run is writing the output.
        ResumeRefused: an interrupted run left rows, but it is a different run, or its files are damaged.
        ConfigError: the output cannot be written.
    """
    output = ResumableOutput(targets, format, header)
    try:
        output.open(restart)
        yield output
        output.finish()
    except BaseException:
        output.leave()
        raise
