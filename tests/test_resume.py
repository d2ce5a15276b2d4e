"""What a killed run leaves, and what the next one makes of it; and two runs at once."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskalg import files, system
from taskalg.checkpoints.base import Checkpoint
from taskalg.checkpoints.registry import open_checkpoint
from taskalg.dtypes import F32
from taskalg.engines.registry import get_engine
from taskalg.errors import CheckpointError, OutputError
from taskalg.output.journal import JOURNAL_NAME, Journal, digest, resumable
from taskalg.output.layout import OutputTensor, ShardLayout, lay_out
from taskalg.output.lock import LOCK_NAME
from taskalg.output.moves import temporary
from taskalg.output.publish import Publication, stage
from taskalg.output.sidefiles import SideFile
from taskalg.output.watermarks import Watermarks
from taskalg.running.execute import execute
from taskalg.running.stream import Settings
from tests.faults import Faults, Killed, inject, unsynced
from tests.merging import fine, inputs, loaded, merge, plan, skipped, tree

ROOT = Path(__file__).parent.parent
HIDDEN = ".taskalg-partial"
TENSORS = [OutputTensor(name, F32, (10,), 40) for name in "abcd"]
LAYOUTS = lay_out(TENSORS, shard_size=80)  # two shards, two tensors each


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    unsynced(monkeypatch)
    fine(monkeypatch)


def write(out: Path, *, until: int = 10**9, key: str = "key", **options: Any) -> tuple[int, ...]:
    """Write zeros and ones, or be killed after so many tensors; return what was there before."""
    faults = Faults()
    with pytest.MonkeyPatch.context() as patch:
        inject(patch, faults)
        try:
            with stage(out, LAYOUTS, key=key, **options) as staged:
                _fill(staged, until, faults)
                staged.publish()
        except Killed:
            pass
        finally:
            faults.end()
        return staged.done


def _fill(staged: Publication, until: int, faults: Faults) -> None:
    for shard, layout in enumerate(LAYOUTS):
        for tensor, offset in zip(layout.tensors, layout.offsets, strict=True):
            if until == 0:
                raise faults.kill()
            until -= 1
            if offset + tensor.nbytes > staged.done[shard]:
                with staged.files.using(shard) as fd:
                    files.write_at(fd, tensor.name.encode() * tensor.nbytes, offset)
                staged.wrote(shard, offset, tensor.nbytes)
    if until == 0:
        raise faults.kill()


def expected(tmp_path: Path) -> dict[str, bytes]:
    write(tmp_path / "expected")
    return tree(tmp_path / "expected")


# ---- Going on


@pytest.mark.parametrize("until", range(5))
def test_a_run_goes_on_where_a_killed_one_stopped(tmp_path: Path, until: int) -> None:
    out = tmp_path / "out"
    assert write(out, until=until) == (0, 0)
    assert loaded(out) == (None, None)
    assert [path.name for path in out.iterdir()] == [HIDDEN]
    first, second = (layout.offsets for layout in LAYOUTS)
    ends = [0, first[1], LAYOUTS[0].size, LAYOUTS[0].size, LAYOUTS[0].size]
    others = [0, 0, 0, second[1], LAYOUTS[1].size]
    assert write(out) == (ends[until], others[until])
    assert tree(out) == expected(tmp_path)


def test_a_run_goes_on_as_often_as_it_is_killed(tmp_path: Path) -> None:
    for until in (1, 2, 2, 3):
        write(tmp_path / "out", until=until)
    assert write(tmp_path / "out")[0] == LAYOUTS[0].size
    assert tree(tmp_path / "out") == expected(tmp_path)


def test_what_was_written_after_the_last_record_is_forgotten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, until=1)
    shard = out / HIDDEN / temporary(0)
    content = bytearray(shard.read_bytes())
    content[LAYOUTS[0].offsets[1] :] = b"?" * 40  # zeros would never be written over it
    shard.write_bytes(content)
    with stage(out, LAYOUTS, key="key") as staged:
        assert shard.read_bytes()[LAYOUTS[0].offsets[1] :] == bytes(40)
        assert staged.done == (LAYOUTS[0].offsets[1], 0)


@pytest.mark.parametrize("key", ["other", ""])
def test_another_plan_starts_over(tmp_path: Path, key: str) -> None:
    write(tmp_path / "out", until=3)
    assert write(tmp_path / "out", key=key) == (0, 0)
    assert tree(tmp_path / "out") == expected(tmp_path)


def test_without_a_key_nothing_is_recorded(tmp_path: Path) -> None:
    write(tmp_path / "out", until=3, key="")
    assert not (tmp_path / "out" / HIDDEN / JOURNAL_NAME).exists()
    assert write(tmp_path / "out") == (0, 0)


def test_a_small_output_is_not_worth_a_journal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("taskalg.output.watermarks.RESUME_STEP", 10**6)
    write(tmp_path / "out", until=3)
    assert not (tmp_path / "out" / HIDDEN / JOURNAL_NAME).exists()


def test_leaving_on_purpose_removes_also_what_was_taken_up(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, until=3)
    with pytest.raises(KeyboardInterrupt), stage(out, LAYOUTS, key="key") as staged:
        assert any(staged.done)
        raise KeyboardInterrupt
    assert tree(out) == {}


def killed_merge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **options: Any) -> Path:
    """Merge until most of the output is written, and be killed."""
    out = tmp_path / "out"
    with monkeypatch.context() as context:
        counter = Faults(only=("pwrite",))
        inject(context, counter)
        merge(plan(tmp_path / "in"), tmp_path / "counted", **options)
    with monkeypatch.context() as context:
        at = len(counter.calls) - 4
        faults = Faults(at, sticky=True, error=Killed(), starting="pwrite")
        inject(context, faults)
        with pytest.raises(Killed):
            merge(plan(tmp_path / "in"), out, **options)
        faults.end()
    assert (out / HIDDEN / JOURNAL_NAME).exists()
    return out


def test_a_merge_goes_on_if_plan_and_inputs_are_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inputs(tmp_path / "in")
    out = killed_merge(monkeypatch, tmp_path, shard_size=64)
    report = merge(plan(tmp_path / "in"), out, shard_size=64)
    assert skipped(report)
    assert report.bytes_read < plan(tmp_path / "in").bytes_read
    assert tree(out) == tree(tmp_path / "counted")


CHANGES: dict[str, Any] = {
    "expression": {"text": "base + 0.25*(ft - base)[0:3]"},
    "which layers": {"text": "base + 0.5*(ft - base)[0:2]"},
    "an input": {"touch": True},
    "shards": {"shard_size": 48},
    "what is an error": {"warn": True},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_merge_starts_over_after_a_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: str
) -> None:
    inputs(tmp_path / "in")
    out = killed_merge(monkeypatch, tmp_path, shard_size=64)
    what = dict(CHANGES[change])
    if what.pop("touch", False):
        os.utime(tmp_path / "in" / "ft" / "model.safetensors", (1, 1))
    fail = not what.pop("warn", False)
    size = what.pop("shard_size", 64)
    planned = plan(tmp_path / "in", **what)
    settings = Settings(threads=1, shard_size=size, fail_on_overflow=fail)
    assert not skipped(execute(planned, get_engine("cpu"), out, settings))
    merge(planned, tmp_path / "fresh", shard_size=size)
    assert tree(out) == tree(tmp_path / "fresh")


def test_zeros_need_no_writing_to_be_complete(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inputs(tmp_path / "in")
    saved: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "taskalg.output.staging.Staging._save", lambda self, *step: saved.append(step)
    )
    merge(plan(tmp_path / "in", "(ft - base)[2]"), tmp_path / "out")
    assert saved[-1] == (0, (tmp_path / "out" / "model.safetensors").stat().st_size)


# ---- The journal is believed as far as it can be checked


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A hidden folder with both shards, the first one half done."""
    (tmp_path / "hidden").mkdir()
    for shard, layout in enumerate(LAYOUTS):
        (tmp_path / "hidden" / temporary(shard)).write_bytes(layout.header.ljust(layout.size, b"x"))
    journal = Journal(tmp_path / "hidden", "key", (0, 0))
    journal.append(0, LAYOUTS[0].offsets[1])
    journal.append(1, LAYOUTS[1].size)
    journal.close()
    return tmp_path / "hidden"


DONE = (LAYOUTS[0].offsets[1], LAYOUTS[1].size)


def test_a_journal_says_what_was_recorded(left: Path) -> None:
    assert resumable(left, "key", LAYOUTS) == DONE
    assert resumable(left, "other", LAYOUTS) == resumable(left, "", LAYOUTS) == (0, 0)


def test_a_line_that_was_being_written_is_ignored(left: Path) -> None:
    path = left / JOURNAL_NAME
    whole = path.read_bytes()
    lines = [len(b"\n".join(whole.split(b"\n")[:i])) for i in (1, 2, 3)]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        records = sum(size > end for end in lines) - 1
        expected = ((0, 0), (DONE[0], 0), DONE)[max(0, records)]
        assert resumable(left, "key", LAYOUTS) == expected, size
        path.write_bytes(whole[:size] + bytes(len(whole) - size))  # the size was on the disk
        assert resumable(left, "key", LAYOUTS) == expected, size


@pytest.mark.parametrize("size", [0, 1, 100])
def test_no_byte_of_a_journal_can_change_unnoticed(left: Path, size: int) -> None:
    path = left / JOURNAL_NAME
    whole = path.read_bytes()
    for place in range(len(whole)):
        for flip in (1, 0x80):
            damaged = bytearray(whole)
            damaged[place] ^= flip
            path.write_bytes(damaged)
            found = resumable(left, "key", LAYOUTS)
            assert found in ((0, 0), (DONE[0], 0)), place


def record(*pairs: tuple[Any, Any]) -> list[str]:
    return [f"{shard} {end}" for shard, end in pairs]


IMPOSSIBLE = {
    "too far": record((0, LAYOUTS[0].size + 1)),
    "no such shard": record((2, 10)),
    "backwards": record((0, 200), (0, 100)),
    "twice": record((0, 200), (0, 200)),
    "negative": record((0, -1)),
    "no number": record((0, "x")),
    "too long": record((0, "9" * 5000)),
    "a sentence": ["hello"],
    "empty": [""],
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_journal_that_says_what_cannot_be_is_not_believed(left: Path, case: str) -> None:
    from taskalg.output.journal import _sealed

    lines = ["key", *IMPOSSIBLE[case], f"1 {LAYOUTS[1].size}"]
    (left / JOURNAL_NAME).write_bytes(b"".join(map(_sealed, lines)))
    assert resumable(left, "key", LAYOUTS) == (0, 0)


@pytest.mark.parametrize("damage", ["gone", "short", "long", "header", "link", "folder", "pipe"])
def test_files_that_are_not_what_the_journal_says_are_not_taken_up(left: Path, damage: str) -> None:
    shard = left / temporary(1)
    content = shard.read_bytes()
    shard.unlink()
    if damage == "folder":
        shard.mkdir()
    elif damage == "pipe":
        os.mkfifo(shard)
    elif damage == "link":
        (left / "elsewhere").write_bytes(content)
        shard.symlink_to("elsewhere")
    elif damage != "gone":
        changed = {"short": content[:-1], "long": content + b"x", "header": b"?" + content[1:]}
        shard.write_bytes(changed[damage])
    assert resumable(left, "key", LAYOUTS) == (0, 0)


@pytest.mark.parametrize("what", ["a link", "a folder", "nothing"])
def test_a_journal_that_is_no_file_is_none(left: Path, what: str) -> None:
    path = left / JOURNAL_NAME
    path.rename(left / "elsewhere")
    if what == "a link":
        path.symlink_to("elsewhere")
    elif what == "a folder":
        path.mkdir()
    assert resumable(left, "key", LAYOUTS) == (0, 0)


def test_arrays_in_memory_have_no_state_to_compare(tmp_path: Path) -> None:
    inputs(tmp_path)
    given = open_checkpoint(tmp_path / "base")
    in_memory = Checkpoint("", None, (), {}, False, arrays=(memoryview(b"x"),))  # type: ignore[arg-type]
    assert digest("key", LAYOUTS, [given]) != digest("key", LAYOUTS, [])
    assert digest("key", LAYOUTS, [in_memory]) == digest("", LAYOUTS, [given]) == ""


# ---- Watermarks


@given(st.data())
def test_only_what_has_no_hole_before_it_is_saved(data: st.DataObject) -> None:
    written = [set(range(len(layout.header))) for layout in LAYOUTS]
    saved = [0, 0]

    def save(shard: int, end: int) -> None:
        assert written[shard] >= set(range(end))
        assert end > saved[shard]
        saved[shard] = end

    marks = Watermarks(LAYOUTS, (0, 0), save)
    for shard, layout in enumerate(LAYOUTS):
        cuts = data.draw(st.sets(st.integers(len(layout.header) + 1, layout.size - 1)))
        ends = [len(layout.header), *sorted(cuts), layout.size]
        for start, end in data.draw(st.permutations(list(pairwise(ends)))):
            written[shard] |= set(range(start, end))
            marks.add(shard, start, end - start)
    assert saved == [layout.size for layout in LAYOUTS]


def test_a_sync_does_not_hold_up_the_other_threads() -> None:
    syncing, go_on = threading.Event(), threading.Event()
    steps: list[tuple[int, int]] = []

    def save(shard: int, end: int) -> None:
        steps.append((shard, end))
        syncing.set()
        assert go_on.wait(60)

    marks = Watermarks(LAYOUTS, (0, 0), save)
    first, second = LAYOUTS[0].offsets
    worker = threading.Thread(target=marks.add, args=(0, first, 40))
    worker.start()
    assert syncing.wait(60)
    marks.add(0, second, 40)  # would wait forever
    marks.add(1, LAYOUTS[1].offsets[0], 80)
    go_on.set()
    worker.join()
    assert sorted(steps) == [(0, second), (0, LAYOUTS[0].size), (1, LAYOUTS[1].size)]


def test_a_failed_sync_is_raised_and_nothing_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (
        pytest.raises(OutputError, match="cannot sync"),
        stage(tmp_path / "out", LAYOUTS, key="key") as staged,
        monkeypatch.context() as context,
    ):
        inject(context, Faults(1, only=("fsync",)))
        staged.wrote(0, LAYOUTS[0].offsets[0], 80)
    assert list(tmp_path.iterdir()) == []


# ---- Two runs at once

HOLD = """
import sys
from taskalg.dtypes import F32
from taskalg.output.layout import OutputTensor, lay_out
from taskalg.output.publish import stage
with stage(sys.argv[1], lay_out([OutputTensor("a", F32, (10,), 40)])) as staged:
    print("ready", flush=True)
    sys.stdin.read()
"""


def holding(out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLD, str(out)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("out", ["out", "out.safetensors"])
def test_a_second_run_exits_and_says_who_is_at_work(tmp_path: Path, out: str) -> None:
    inputs(tmp_path)
    command = [sys.executable, "-m", "taskalg", "merge", "base + (ft - base)/2"]
    command += ["--model", "base=base", "--model", "ft=ft", "-o", out]
    with holding(tmp_path / out) as first:
        before = sorted(tmp_path.rglob("*"))
        for extra in ([], ["--overwrite"]):
            found = subprocess.run([*command, *extra], cwd=tmp_path, capture_output=True, text=True)
            assert found.returncode == 5
            assert "another run is writing to" in found.stderr
            assert f"process {first.pid} on " in found.stderr
            assert f"since {time.strftime('%Y-')}" in found.stderr
            assert found.stderr.count("help: wait until it is done") == 1
        assert sorted(tmp_path.rglob("*")) == before
        first.send_signal(signal.SIGKILL)
        first.wait()
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert not list(tmp_path.rglob(f"*{HIDDEN[:9]}*"))


def test_of_many_takers_one_wins(tmp_path: Path) -> None:
    write(tmp_path / "out", until=2)  # leaves a lock that nobody holds
    assert (tmp_path / "out" / HIDDEN / LOCK_NAME).exists()
    together = threading.Barrier(4)
    won: list[bool] = []

    def take() -> None:
        together.wait()
        try:
            with stage(tmp_path / "out", LAYOUTS, key="key"):
                together.wait()
                won.append(True)
        except OutputError:
            together.wait()
            won.append(False)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False, False, False, True]
    assert tree(tmp_path / "out") == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff" * 2000])
def test_a_lock_s_text_is_for_the_message_only(tmp_path: Path, content: bytes) -> None:
    with stage(tmp_path / "out", LAYOUTS):
        (tmp_path / "out" / HIDDEN / LOCK_NAME).write_bytes(content)
        with pytest.raises(OutputError, match="another run is writing") as caught:
            stage(tmp_path / "out", LAYOUTS).__enter__()
        assert caught.value.note is None
    write(tmp_path / "new", until=1)
    (tmp_path / "new" / HIDDEN / LOCK_NAME).write_bytes(content)
    write(tmp_path / "new")
    assert loaded(tmp_path / "new")[0] is not None


def test_what_another_run_published_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    late = stage(tmp_path / "out", LAYOUTS, key="key")
    write(tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(OutputError, match="is not empty"):
        late.__enter__()
    assert tree(tmp_path / "out") == before


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = system.primitives.lock
    waiting = ["once"]

    def lock(fd: int) -> None:
        real(fd)
        if waiting:  # the other run ends between the two calls
            waiting.pop()
            (tmp_path / "out" / HIDDEN / LOCK_NAME).unlink()

    calls = {**system.primitives.__dict__, "lock": lock}
    monkeypatch.setattr(system, "primitives", system.Primitives(**calls))
    with stage(tmp_path / "out", LAYOUTS), pytest.raises(OutputError, match="another run"):
        stage(tmp_path / "out", LAYOUTS).__enter__()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_a_file_stands_for_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    def lock(fd: int) -> None:
        raise OSError(number, "No locks")

    calls = {**system.primitives.__dict__, "lock": lock}
    monkeypatch.setattr(system, "primitives", system.Primitives(**calls))
    write(tmp_path / "out", until=2)
    with pytest.raises(OutputError, match="another run") as caught:
        write(tmp_path / "out")
    path = tmp_path / "out" / HIDDEN / LOCK_NAME
    assert caught.value.help is not None
    assert str(path) in caught.value.help
    path.unlink()
    assert write(tmp_path / "out") == (LAYOUTS[0].size, 0)
    assert tree(tmp_path / "out") == expected(tmp_path)


# ---- Space, additions, digests


def test_what_an_interrupted_run_left_counts_as_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(tmp_path / "out", until=3)
    before = tree(tmp_path / "out")
    used = sum(p.stat().st_blocks * 512 for p in (tmp_path / "out" / HIDDEN).iterdir())
    needed = sum(layout.size for layout in LAYOUTS) + 1_000_000
    lock = 4096  # of a file that does not count
    for free, fits in ((needed - used - 1, False), (needed - used + lock, True)):
        calls = {**system.primitives.__dict__, "free": lambda path, free=free: free}
        monkeypatch.setattr(system, "primitives", system.Primitives(**calls))
        if fits:
            assert any(write(tmp_path / "out"))
        else:
            with pytest.raises(OutputError, match="not enough space"):
                stage(tmp_path / "out", LAYOUTS, key="key").__enter__()
            now = tree(tmp_path / "out")
            assert now == {k: v for k, v in before.items() if LOCK_NAME not in k}


def test_a_side_file_can_be_added_at_the_end(tmp_path: Path) -> None:
    first = [SideFile("config.json", b"{}"), SideFile("taskalg.json", b"old")]
    with stage(tmp_path / "out", LAYOUTS, side_files=first) as staged:
        staged.add(SideFile("taskalg.json", b"new"))
        staged.publish()
    found = tree(tmp_path / "out")
    assert (found["config.json"], found["taskalg.json"]) == (b"{}", b"new")
    with stage(tmp_path / "x.safetensors", lay_out(TENSORS)) as staged:
        staged.add(SideFile("taskalg.json", b"new"))
        staged.publish()
    assert not (tmp_path / "taskalg.json").exists()


@pytest.mark.parametrize("out", ["out", "out.safetensors"])
def test_digests_are_those_of_the_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: str
) -> None:
    monkeypatch.setattr("taskalg.output.digests._BLOCK", 7)
    layouts: Sequence[ShardLayout] = LAYOUTS if out == "out" else lay_out(TENSORS)
    with stage(tmp_path / out, layouts) as staged:
        found = staged.digests()
        staged.publish()
    folder = tmp_path / out if out == "out" else tmp_path
    names = [layout.name for layout in LAYOUTS] if out == "out" else [out]
    assert found == {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}


def test_a_shard_that_cannot_be_read_back_is_the_output_s_fault(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="cannot be read back"),
        stage(tmp_path / "out", LAYOUTS) as staged,
    ):
        (tmp_path / "out" / HIDDEN / temporary(1)).unlink()
        staged.digests()
    assert list(tmp_path.iterdir()) == []


def test_a_crash_after_publishing_leaves_what_readers_ignore(tmp_path: Path) -> None:
    write(tmp_path / "out")
    before = tree(tmp_path / "out")
    hidden = tmp_path / "out" / HIDDEN
    hidden.mkdir()
    (hidden / LOCK_NAME).write_bytes(b"")
    (hidden / JOURNAL_NAME).write_bytes(b"")
    (hidden / "moves.json").write_text(json.dumps([["shard-0", LAYOUTS[0].name]]), "utf-8")
    assert sorted(open_checkpoint(tmp_path / "out").tensors) == list("abcd")
    with pytest.raises(OutputError, match="is not empty"):
        write(tmp_path / "out")
    write(tmp_path / "out", overwrite=True)
    assert tree(tmp_path / "out") == before


def test_a_half_published_output_is_no_model_and_is_completed(tmp_path: Path) -> None:
    write(tmp_path / "out", until=4)
    hidden = tmp_path / "out" / HIDDEN
    moves = [[temporary(0), LAYOUTS[0].name], ["file-0", "model.safetensors.index.json"]]
    (hidden / "moves.json").write_text(json.dumps(moves), "utf-8")
    (hidden / "file-0").write_text("{}", "utf-8")
    (hidden / temporary(0)).rename(tmp_path / "out" / LAYOUTS[0].name)
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "out")
    assert write(tmp_path / "out") == (0, 0)
    assert tree(tmp_path / "out") == expected(tmp_path)
