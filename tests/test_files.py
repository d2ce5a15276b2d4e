import errno
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskalg import files, system
from taskalg.errors import CheckpointError, OutputError
from tests.faults import FIELDS, Faults, inject, without

READ_WAYS: list[tuple[str, ...]] = [(), ("preadv",), ("preadv", "pread")]
WRITE_WAYS: list[tuple[str, ...]] = [(), ("pwrite",)]
CONTENT = bytes(range(256)) * 5


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "source").write_bytes(CONTENT)
    fd = files.open_input(tmp_path / "source")
    yield fd
    files.close(fd)


def replace(monkeypatch: pytest.MonkeyPatch, **calls: Any) -> None:
    faked = {name: getattr(system.primitives, name) for name in FIELDS} | calls
    monkeypatch.setattr(system, "primitives", system.Primitives(**faked))


@pytest.mark.parametrize("missing", READ_WAYS)
def test_reading_fills_every_buffer_in_order(
    monkeypatch: pytest.MonkeyPatch, source: int, missing: tuple[str, ...]
) -> None:
    without(monkeypatch, *missing)
    first, second = bytearray(10), np.zeros((3, 5), np.uint16)
    empty, third = np.zeros((0, 4), np.uint8), memoryview(bytearray(7))
    files.read_into(source, [first, second, empty, third], 100)
    assert bytes(first) + second.tobytes() + bytes(third) == CONTENT[100:147]


@pytest.mark.parametrize("missing", READ_WAYS)
@pytest.mark.parametrize("most", [1, 3, 64])
def test_short_reads_are_continued(
    monkeypatch: pytest.MonkeyPatch, source: int, missing: tuple[str, ...], most: int
) -> None:
    real = system.primitives

    def short_preadv(fd: int, views: list[memoryview], offset: int) -> int:
        return os.preadv(fd, [views[0][:most]], offset)

    def short_readinto(fd: int, view: memoryview) -> int:
        return real.readinto(fd, view[:most])

    replace(
        monkeypatch,
        preadv=short_preadv,
        pread=lambda fd, count, offset: os.pread(fd, min(count, most), offset),
        readinto=short_readinto,
    )
    without(monkeypatch, *missing)
    buffers = [bytearray(40), bytearray(1), bytearray(59)]
    files.read_into(source, buffers, 7)
    assert b"".join(buffers) == CONTENT[7:107]


def test_more_buffers_than_one_call_takes(source: int) -> None:
    buffers = [bytearray(1) for _ in range(1100)]
    files.read_into(source, buffers, 0)
    assert b"".join(buffers) == CONTENT[:1100]


def test_one_call_never_moves_more_than_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, source: int
) -> None:
    asked = []

    def preadv(fd: int, views: list[memoryview], offset: int) -> int:
        asked.append(sum(view.nbytes for view in views))
        return os.preadv(fd, views, offset)

    monkeypatch.setattr(system, "LARGEST_CALL", 100)
    replace(monkeypatch, preadv=preadv)
    buffers = [bytearray(70), bytearray(150), bytearray(30)]
    files.read_into(source, buffers, 3)
    assert b"".join(buffers) == CONTENT[3:253]
    assert max(asked) == 100


@pytest.mark.parametrize("missing", READ_WAYS)
def test_a_file_that_ends_too_early_is_the_input_s_fault(
    monkeypatch: pytest.MonkeyPatch, source: int, missing: tuple[str, ...]
) -> None:
    without(monkeypatch, *missing)
    with pytest.raises(CheckpointError, match=r"source' ends too early, at byte 1,280"):
        files.read_into(source, [bytearray(10), bytearray(20)], len(CONTENT) - 15)


@pytest.mark.parametrize("missing", READ_WAYS)
def test_a_read_error_names_the_file(
    monkeypatch: pytest.MonkeyPatch, source: int, missing: tuple[str, ...]
) -> None:
    without(monkeypatch, *missing)
    faults = Faults(1, only=("preadv", "pread", "readinto"))
    inject(monkeypatch, faults)
    with pytest.raises(CheckpointError, match=r"cannot read '.*source': input/output error"):
        files.read_into(source, [bytearray(10)], 0)
    assert faults.failed


def test_reading_at_offsets_is_safe_from_several_threads(
    monkeypatch: pytest.MonkeyPatch, source: int
) -> None:
    without(monkeypatch, "preadv", "pread")
    wrong = []

    def work(start: int) -> None:
        for offset in range(start, 1200, 7):
            buffer = bytearray(50)
            files.read_into(source, [buffer], offset)
            if buffer != CONTENT[offset : offset + 50]:
                wrong.append(offset)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def special_files(folder: Path) -> dict[str, Path]:
    (folder / "dir").mkdir()
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(folder)  # a socket's path may have 108 bytes only
        listener.bind("socket")
        os.chdir(here)
    return {
        "folder": folder / "dir",
        "named pipe": folder / "fifo",
        "socket": folder / "socket",
        "device": Path("/dev/null"),
    }


def test_nothing_but_a_regular_file_is_opened(tmp_path: Path) -> None:
    for kind, path in special_files(tmp_path).items():
        with pytest.raises(CheckpointError, match=f"is a {kind}, not a file"):
            files.open_input(path)


def test_a_pipe_that_takes_the_file_s_place_is_refused_without_waiting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    regular = os.stat(tmp_path / "file")
    os.mkfifo(tmp_path / "fifo")
    replace(monkeypatch, stat=lambda path: regular)
    with pytest.raises(CheckpointError, match="is a named pipe"):
        files.open_input(tmp_path / "fifo")


@pytest.mark.parametrize("path", ["absent", "a\0b", "file/below"])
def test_what_is_not_there_is_the_input_s_fault(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    for use in (files.open_input, files.fingerprint, files.identity, files.list_folder):
        with pytest.raises(CheckpointError, match="cannot read"):
            use(tmp_path / path)
    assert not files.exists(tmp_path / path)
    assert not files.is_file(tmp_path / path)
    assert not files.is_folder(tmp_path / path)
    assert not files.is_link(tmp_path / path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "secret").touch(mode=0)
    with pytest.raises(CheckpointError, match="permission denied"):
        files.open_input(tmp_path / "secret")


def test_identity_sees_through_links_and_fingerprint_sees_a_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    os.link(tmp_path / "a", tmp_path / "hard")
    os.symlink("a", tmp_path / "soft")
    assert files.identity(tmp_path / "hard") == files.identity(tmp_path / "a")
    assert files.identity(tmp_path / "soft") == files.identity(tmp_path / "a")
    assert files.is_link(tmp_path / "soft") and not files.is_link(tmp_path / "hard")
    before = files.fingerprint(tmp_path / "a")
    assert before == files.fingerprint(tmp_path / "hard")
    (tmp_path / "a").write_bytes(b"more")
    assert files.fingerprint(tmp_path / "a") != before


def test_read_small_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"12345")
    assert files.read_small(tmp_path / "small", 5) == b"12345"
    with pytest.raises(CheckpointError, match="too large"):
        files.read_small(tmp_path / "small", 4)


@pytest.mark.parametrize("missing", WRITE_WAYS)
def test_writing_anywhere_in_a_new_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: tuple[str, ...]
) -> None:
    without(monkeypatch, *missing)
    fd = files.create_output(tmp_path / "new", 20)
    files.write_at(fd, np.arange(3, dtype=np.uint16), 14)
    files.write_at(fd, b"abc", 0)
    files.write_at(fd, b"", 20)
    files.sync(fd)
    files.close(fd)
    expected = b"abc" + bytes(11) + bytes([0, 0, 1, 0, 2, 0])
    assert (tmp_path / "new").read_bytes() == expected


@pytest.mark.parametrize("missing", WRITE_WAYS)
def test_short_writes_are_continued(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: tuple[str, ...]
) -> None:
    replace(
        monkeypatch,
        pwrite=lambda fd, view, offset: os.pwrite(fd, view[:3], offset),
        write=lambda fd, view: os.write(fd, view[:3]),
    )
    without(monkeypatch, *missing)
    files.write_small(tmp_path / "new", CONTENT)
    assert (tmp_path / "new").read_bytes() == CONTENT


def test_a_write_that_moves_nothing_is_an_error_and_no_loop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    replace(monkeypatch, pwrite=lambda fd, view, offset: 0)
    with pytest.raises(OutputError, match="nothing was written"):
        files.write_small(tmp_path / "new", CONTENT)


@pytest.mark.parametrize("missing", [(), ("fallocate",)])
def test_a_new_file_has_its_size_its_zeros_and_the_umask_s_mode(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: tuple[str, ...]
) -> None:
    without(monkeypatch, *missing)
    before = os.umask(0o027)
    try:
        files.close(files.create_output(tmp_path / "new", 5000))
    finally:
        os.umask(before)
    assert (tmp_path / "new").read_bytes() == bytes(5000)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_a_file_that_exists_is_never_created_again(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"cannot create '.*old': file exists"):
        files.create_output(tmp_path / "old", 3)
    assert (tmp_path / "old").read_bytes() == b"precious"


@pytest.mark.parametrize("call", ["fallocate", "truncate"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_file_without_space_is_not_left_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str, code: int
) -> None:
    inject(monkeypatch, Faults(1, error=OSError(code, os.strerror(code)), only=(call,)))
    with pytest.raises(OutputError, match="cannot create") as caught:
        files.create_output(tmp_path / "new", 5000)
    assert list(tmp_path.iterdir()) == []
    assert (caught.value.help is not None) == (code in (errno.ENOSPC, errno.EDQUOT))


def test_where_space_cannot_be_reserved_the_size_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    error = OSError(errno.EOPNOTSUPP, "not supported")
    inject(monkeypatch, Faults(1, error=error, only=("fallocate",)))
    files.close(files.create_output(tmp_path / "new", 5000))
    assert (tmp_path / "new").stat().st_size == 5000


def test_reserving_stops_when_it_is_slow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(system, "RESERVE_BLOCK", 1000)
    for seconds, expected in ((-1.0, 1), (1000.0, 5)):
        faults = Faults(only=("fallocate",))
        monkeypatch.setattr(system, "RESERVE_SECONDS", seconds)
        inject(monkeypatch, faults)
        files.close(files.create_output(tmp_path / f"new{expected}", 5000))
        assert len(faults.calls) == expected


def copied(tmp_path: Path, source: int) -> bytes:
    target = files.create_output(tmp_path / "target", 900)
    files.copy_range(source, 300, target, 50, 800)
    files.close(target)
    return (tmp_path / "target").read_bytes()


@pytest.mark.parametrize("missing", [(), ("copy_file_range",), ("copy_file_range", "preadv")])
def test_copying_a_range(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: int, missing: tuple[str, ...]
) -> None:
    without(monkeypatch, *missing)
    monkeypatch.setattr(files, "COPY_BLOCK", 300)
    assert copied(tmp_path, source) == bytes(50) + CONTENT[300:1100] + bytes(50)


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_copy_that_the_kernel_gives_up_is_finished_by_hand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: int, fails_at: int
) -> None:
    calls = []

    def copy(a: int, b: int, count: int, start: int, to: int) -> int:
        calls.append(count)
        if len(calls) == fails_at:
            raise OSError(errno.EXDEV, "two file systems")
        return os.copy_file_range(a, b, min(count, 200), start, to)

    replace(monkeypatch, copy_file_range=copy)
    assert copied(tmp_path, source) == bytes(50) + CONTENT[300:1100] + bytes(50)
    assert len(calls) == fails_at


def test_a_copy_from_a_short_file_blames_the_input(tmp_path: Path, source: int) -> None:
    target = files.create_output(tmp_path / "target", 900)
    with pytest.raises(CheckpointError, match="ends too early"):
        files.copy_range(source, 1000, target, 0, 800)
    files.close(target)


def test_a_failed_sync_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    faults = Faults(1, only=("fsync",))
    inject(monkeypatch, faults)
    with pytest.raises(OutputError, match=r"cannot sync '.*new'"):
        files.write_small(tmp_path / "new", b"x")
    assert faults.calls == ["fsync"]


def test_folders_are_synced_where_that_is_possible(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for code, fails in ((errno.EINVAL, False), (errno.EIO, True)):
        faults = Faults(1, error=OSError(code, "no"), only=("fsync_folder",))
        inject(monkeypatch, faults)
        if fails:
            with pytest.raises(OutputError, match="cannot sync"):
                files.sync_folder(tmp_path)
        else:
            files.sync_folder(tmp_path)
        assert faults.failed
    without(monkeypatch, "fsync_folder")
    inject(monkeypatch, Faults(1, only=("open",)))
    files.sync_folder(tmp_path)  # not even opened


def test_changing_names_blames_the_output(tmp_path: Path) -> None:
    for use in (files.make_folder, files.remove_folder, files.sync_folder, files.free_space):
        with pytest.raises(OutputError, match="cannot"):
            use(tmp_path / "absent" / "x")
    with pytest.raises(OutputError, match="cannot rename to"):
        files.rename(tmp_path / "absent", tmp_path / "x")
    with pytest.raises(OutputError, match="cannot remove"):
        files.remove(tmp_path)
    files.remove(tmp_path / "absent")


def test_a_descriptor_opened_elsewhere_has_a_number_in_messages(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    with pytest.raises(CheckpointError, match=f"'descriptor {fd}' ends too early"):
        files.read_into(fd, [bytearray(1)], 0)
    files.close(fd)
    with pytest.raises(OutputError, match=f"cannot close 'descriptor {fd}'"):
        files.close(fd)


def test_space_and_permission_are_asked_of_the_system(tmp_path: Path) -> None:
    assert files.free_space(tmp_path) > 0
    assert files.is_writable(tmp_path)
