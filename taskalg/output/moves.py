"""The renames that publish an output, in order, and the list of them in its hidden folder.

A move is done when its source is gone from the hidden folder. The last move completes the output;
until then the targets of the others are no model, and the next run removes them. The list is
removed before the sources are, so that no source can be missing for another reason.

What a loader looks for first comes last: shards and side files, then the index or the single file
of each part in a sub-folder, then that of the output's own folder or, where a pipeline has none,
the list of its parts.
"""

import json
from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from taskalg import files
from taskalg.checkpoints.pipeline import LISTS
from taskalg.errors import CheckpointError, OutputError
from taskalg.output.lock import LOCK_NAME

MOVES_NAME = "moves.json"
LARGEST_LIST = 10_000_000  # bytes; a thousand shards take a tenth of a megabyte


@dataclass(frozen=True)
class Move:
    """One rename to come."""

    source: str  # its name in the hidden folder
    target: str  # its path in the output, parts joined by "/"


def temporary(shard: int) -> str:
    """Return what a shard is called in the hidden folder, whatever folder it will be in."""
    return f"shard-{shard}"


def in_stages(moves: Sequence[Move], entries: Container[str]) -> list[list[Move]]:
    """Return moves in the order of publishing, in groups; the disk has each before the next.

    Args:
        moves: all of them.
        entries: targets that a loader of one part looks for first.
    """
    found = [move.target for move in moves if move.target in entries]
    ranks = {target: 1 if "/" in target else 2 for target in found}
    if 2 not in ranks.values():
        ranks |= dict.fromkeys(LISTS, 2)

    def stage(move: Move) -> int:
        return ranks.get(move.target, 0)

    return [list(group) for _, group in groupby(sorted(moves, key=stage), stage)]


def write_moves(hidden: Path, moves: Sequence[Move]) -> None:
    """Write the list, the decisive move last, once every source is complete."""
    text = json.dumps([[move.source, move.target] for move in moves])
    files.write_small(hidden / MOVES_NAME, text.encode())


def read_moves(hidden: Path) -> list[Move]:
    """Return the moves of an interrupted run, done or not.

    Empty if there was none, if it had not begun to move, or if its output is complete.
    """
    if files.is_link(hidden) or not files.is_file(hidden / MOVES_NAME):
        return []
    try:
        moves = _parse(files.read_small(hidden / MOVES_NAME, LARGEST_LIST))
    except (ValueError, TypeError, AttributeError, RecursionError, CheckpointError):
        return []  # the run was killed while it wrote the list: nothing had been moved
    if not moves or moves[-1].source not in files.list_folder(hidden):
        return []
    return moves


def done_targets(hidden: Path, moves: Sequence[Move]) -> list[str]:
    """Return the targets of the moves that are done, the latest first."""
    if not moves:
        return []
    waiting = set(files.list_folder(hidden))
    return [move.target for move in reversed(moves) if move.source not in waiting]


def names_left(hidden: Path) -> frozenset[str]:
    """Return the names that an interrupted run left in the output's folder."""
    moves = read_moves(hidden)
    names = {hidden.name}
    names.update(done_targets(hidden, moves))
    for move in moves:
        folder, slash, _ = move.target.partition("/")
        if slash:
            names.add(folder)
    return frozenset(names)


def remove_hidden(hidden: Path, keep: Container[str] = (LOCK_NAME,)) -> None:
    """Remove the files in a hidden folder, the list of moves first.

    Raises:
        OutputError: something cannot be removed.
    """
    files.remove(hidden / MOVES_NAME)
    for name in files.list_folder(hidden):
        if name not in keep:
            files.remove(hidden / name)


def take_back(hidden: Path, moves: Sequence[Move]) -> None:
    """Remove what was published by moves of which the last is not done, and folders left empty."""
    root = hidden.parent
    for target in done_targets(hidden, moves):
        files.remove(root / target)
    for folder in {(root / move.target).parent for move in moves} - {root}:
        with suppress(OutputError):
            files.remove_folder(folder)


def _parse(content: bytes) -> list[Move]:
    """Return the moves in a list, or raise what goes wrong with one that is not ours."""
    moves = []
    for source, target in json.loads(content):
        if not (stays_inside(source) and stays_inside(target)):
            raise ValueError(target)
        moves.append(Move(source, target))
    return moves


def stays_inside(name: str) -> bool:
    """Tell whether a path, parts joined by "/", leads nowhere out of the folder it is read in."""
    odd = any(char in name for char in "\\:\0")
    return not odd and not {"", ".", ".."} & set(name.split("/"))
