"""The CSV file of a sweep: a row for each point that is scored, so that a run resumes.

Columns are the swept scalars, exactly (`0.05`, `1/3`), the scores by key, and a digest of what was
swept and how it was scored. The base's row has no scalars. A row is appended and synced when its
point is done; of a row that was being written when the machine stopped, the rest is dropped.

Rejected: a second file for the digest, which gets lost or left behind when the first is moved; and
the grid in the digest, for then a grid could not be refined without scoring its old points again.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from taskalg import files
from taskalg.algebra.rationals import decimal_text
from taskalg.errors import CheckpointError, OutputError, TaskalgError, UsageError, quoted
from taskalg.scalars import to_fraction
from taskalg.sweeping.scores import DIGEST, check_same, checked_scores

Key = tuple[Fraction, ...]  # values of the swept scalars; () for the base
_LARGEST = 1_000_000_000  # bytes


class Results:
    """Scores that are there already, and those that come.

    Args:
        path: of the file; None keeps them in memory only.
        names: of the swept scalars.
        digest: what is swept and how it is scored.
        scripts: digest of the scorer's files. Rows of others are kept and counted: a script that
            failed at one point, say, was mended for the rest.
        restart: whether scores of an earlier sweep give way.

    Raises:
        UsageError: the file is of another sweep, or of none.
        CheckpointError: it cannot be read.
    """

    def __init__(
        self,
        path: Path | None,
        names: Sequence[str],
        digest: str,
        *,
        scripts: str = "",
        restart: bool = False,
    ) -> None:
        self.scores: dict[Key, dict[str, float]] = {}
        self._keys: tuple[str, ...] = ()  # of scores, as the columns are
        self.outdated = 0  # scores of another version of the scorer's files
        self._path, self._names, self._digest = path, tuple(names), digest
        self._scripts = scripts
        self._end = 0  # bytes of the file that are whole rows
        if path is not None and files.exists(path):
            self._read(path, restart)

    def add(self, key: Key, scores: Mapping[str, float]) -> None:
        """Take in the scores of a point, and make them durable.

        Raises:
            UsageError: they have other keys than those before.
            OutputError: the file cannot be written.
        """
        if self._keys:
            check_same(scores, self._keys)
        else:
            self._keys = tuple(scores)
        self.scores[key] = {name: scores[name] for name in self._keys}
        if self._path is None:
            return
        values = [decimal_text(value) for value in key] or [""] * len(self._names)
        mark = f"{self._digest}.{self._scripts}" if self._scripts else self._digest
        row = [*values, *map(repr, self.scores[key].values()), mark]
        if self._end == 0:
            self._create(self._path, _line([*self._names, *self._keys, DIGEST]) + _line(row))
        else:
            self._append(self._path, _line(row))

    def _create(self, path: Path, content: bytes) -> None:
        """Make the file with its first row: nobody ever finds half a header."""
        hidden = path.with_name(f".taskalg-{path.name}-new")
        files.remove(hidden)
        files.write_small(hidden, content)
        files.rename(hidden, path)
        files.sync_folder(path.parent)
        self._end = len(content)

    def _append(self, path: Path, line: bytes) -> None:
        fd = files.open_output(path)
        try:
            if files.fingerprint(fd).size != self._end:  # a spreadsheet saved it, say
                raise OutputError(
                    f"{quoted(str(path))} was changed while the sweep ran",
                    help="run the same again: it goes on with the rows that are there",
                )
            files.write_at(fd, line, self._end)
            files.sync(fd)
        finally:
            files.close(fd)
        self._end += len(line)

    def _read(self, path: Path, restart: bool) -> None:
        content = files.read_small(path, _LARGEST)
        end = content.rfind(b"\n") + 1
        try:
            header, *rows = csv.reader(io.StringIO(content[:end].decode("utf-8-sig"), newline=""))
        except (ValueError, csv.Error):
            raise _foreign(path) from None
        if header[-1:] != [DIGEST]:
            raise _foreign(path)
        if restart:
            return
        if tuple(header[: len(self._names)]) != self._names:
            raise _another(path, "other scalars were swept")
        self._keys = self._read_keys(path, header)
        for line, row in enumerate(rows, start=2):
            if any(row):  # a spreadsheet may leave empty ones
                self._take(path, line, row)
        if end < len(content):
            files.continue_output(path, end, end)
        self._end = end

    def _read_keys(self, path: Path, header: Sequence[str]) -> tuple[str, ...]:
        keys = tuple(header[len(self._names) : -1])
        try:
            found = tuple(checked_scores(dict.fromkeys(keys, 0), self._names))
        except UsageError:
            found = ()
        if found != keys or not keys:
            raise _damaged(path, 1, "name its columns as they were, or another file with --csv")
        return keys

    def _take(self, path: Path, line: int, row: Sequence[str]) -> None:
        count = len(self._names)
        if len(row) != count + len(self._keys) + 1:
            raise _damaged(path, line)
        digest, _, scripts = row[-1].partition(".")
        self.outdated += scripts != self._scripts
        if digest != self._digest:
            raise _another(path, "the expression, a checkpoint, an option or the command differs")
        try:
            key = tuple(to_fraction(text) for text in row[:count] if text)
            scores = dict(zip(self._keys, map(float, row[count:-1]), strict=True))
        except (ValueError, TaskalgError):
            raise _damaged(path, line) from None
        if len(key) not in (0, count):
            raise _damaged(path, line)
        self.scores[key] = scores


def _line(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _another(path: Path, what: str) -> UsageError:
    return UsageError(
        f"{quoted(str(path))} has the results of another sweep",
        note=what,
        help="keep them and name another file with --csv, or replace them with --restart",
    )


def _foreign(path: Path) -> UsageError:
    return UsageError(
        f"{quoted(str(path))} is not a sweep's file", help="name another one with --csv"
    )


def _damaged(
    path: Path, line: int, remedy: str = "remove that line, and its point is scored again"
) -> CheckpointError:
    return CheckpointError(
        f"line {line} of {quoted(str(path))} is not one that a sweep wrote", help=remedy
    )
