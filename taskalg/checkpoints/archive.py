"""The zip archive that torch.save writes: its pickle, and where the bytes of each storage lie.

Only the archive's directory and its pickle are read, whatever the file's size. torch stores its
records uncompressed, so a storage is a range of the file, and nothing but its place is needed to
read it. Places are looked up in every record's own header. torch would calculate them instead from
the order in which storages are mentioned, and be wrong about an archive that was packed again.
"""

import io
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from taskalg import files
from taskalg.errors import CheckpointError, TaskalgError, printable, quoted

ZIP_MAGIC = b"PK\x03\x04"
LARGEST_PART = 100_000_000  # bytes; of the directory, and of the pickle, as of a header
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a record: its magic, and the lengths of two fields
_ENCRYPTED = 1  # a flag


@dataclass(frozen=True)
class Record:
    """A range of the file."""

    offset: int  # of its first byte, from the start of the file [bytes]
    size: int  # [bytes]


@dataclass(frozen=True)
class Archive:
    """What torch.save wrote."""

    pickle: bytes
    storages: Mapping[str, Record]  # by the key that the pickle calls them


class NotInPlaceError(CheckpointError):
    """A file that may be as it should be, and of which no tensor is a plain range."""


@contextmanager
def damage(path: str) -> Iterator[None]:
    """Blame the file for whatever goes wrong while a library reads it.

    A library raises anything at all on a damaged file: KeyError, AssertionError, MemoryError.
    """
    try:
        yield
    except TaskalgError:
        raise
    except Exception as error:
        words = printable(str(error).partition("\n")[0])[:200]
        raise CheckpointError(
            f"{quoted(path)} is damaged or hostile",
            note=f"{type(error).__name__}: {words}" if words else type(error).__name__,
            help="download it again, or save it again",
        ) from None


def read_archive(fd: int, path: str) -> Archive:
    """Read the pickle of an archive and find its storages.

    Args:
        fd: of the file, open for reading.
        path: what messages call it.

    Raises:
        NotInPlaceError: storages are compressed, or their bytes are in another order.
        CheckpointError: it is no such archive, or damaged.
    """
    with damage(path), zipfile.ZipFile(_Reader(fd, path)) as archive:
        records = {record.filename: record for record in archive.infolist()}
        if len(records) < len(archive.infolist()):
            raise CheckpointError(f"{quoted(path)} is damaged or hostile: it has a record twice")
        stem = _stem(records, path)
        if records.get(f"{stem}/byteorder") and archive.read(f"{stem}/byteorder") != b"little":
            raise NotInPlaceError(f"the numbers in {quoted(path)} are big-endian")
        pattern = re.compile(re.escape(stem) + r"/data/(\d+)")
        found = ((pattern.fullmatch(name), record) for name, record in records.items())
        storages = {match[1]: record for match, record in found if match is not None}
        pickle = records[f"{stem}/data.pkl"]
        if pickle.file_size > LARGEST_PART:
            raise CheckpointError(
                f"{quoted(path)} has a pickle of {pickle.file_size:,} bytes",
                note=f"a list of tensors takes less; at most {LARGEST_PART:,} are read",
            )
        for record in (pickle, *storages.values()):
            if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & _ENCRYPTED:
                raise NotInPlaceError(f"{quoted(path)} is compressed")
        end = files.fingerprint(fd).size
        places = {key: _place(fd, record, end) for key, record in storages.items()}
        return Archive(archive.read(pickle), places)


def _stem(records: Mapping[str, zipfile.ZipInfo], path: str) -> str:
    """Return the folder that all records are in: torch names it after the file."""
    stems = [name[: -len("/data.pkl")] for name in records if re.fullmatch("[^/]+/data.pkl", name)]
    if len(stems) != 1:
        raise CheckpointError(f"{quoted(path)} is a zip archive, and not one that torch.save wrote")
    if f"{stems[0]}/constants.pkl" in records:
        raise CheckpointError(
            f"{quoted(path)} is a TorchScript program, not weights",
            help="save its weights: torch.save(torch.jit.load(path).state_dict(), new_path)",
        )
    return stems[0]


def _place(fd: int, record: zipfile.ZipInfo, end: int) -> Record:
    """Return where a record's bytes are; the directory only says where its header is."""
    header = bytearray(_LOCAL_HEADER.size)
    files.read_into(fd, [header], record.header_offset)
    magic, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = record.header_offset + len(header) + name_length + extra_length
    if magic != ZIP_MAGIC or record.compress_size != record.file_size:
        raise zipfile.BadZipFile(f"the header of {record.filename} is wrong")
    if start + record.file_size > end:
        raise zipfile.BadZipFile(f"{record.filename} ends after the file does")
    return Record(start, record.file_size)


class _Reader(io.RawIOBase):
    """An open descriptor as a file for zipfile, which asks for as many bytes as the file says."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd, self._path = fd, path
        self._size = files.fingerprint(fd).size
        self._at = 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("a negative place in the file")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        count = left if size < 0 else min(size, left)
        if count > LARGEST_PART:
            raise CheckpointError(
                f"{quoted(self._path)} has a directory of {count:,} bytes",
                note=f"at most {LARGEST_PART:,} are read",
            )
        content = bytearray(count)
        files.read_into(self._fd, [content], self._at)
        self._at += count
        return bytes(content)
