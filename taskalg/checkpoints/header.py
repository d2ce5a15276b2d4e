"""The header of a safetensors file: its JSON becomes tensor specs, or an error naming the tensor.

Nothing is believed before it is checked: no allocation follows a number from the file. The rules
are those of the format's description, https://github.com/huggingface/safetensors#format, and where
the reference reader is laxer we are not: names must be unique (it keeps the last), the first byte
must be `{` (it skips spaces before it). Two things it refuses are harmless and pass: `-0` as a
number, and nesting deeper than 128 in a key that nobody reads.

Checks go by columns, each one call into C for all tensors; only when one fails are the tensors
looked at one by one, for the name to blame. 18,000 tensors take 0.05 s, of which the JSON parser
has half; a loop over tensors with its checks inside took twice as long.
"""

import gc
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from typing import Any, NoReturn

from taskalg.checkpoints.base import TensorSpec
from taskalg.dtypes import BY_CODE, DType
from taskalg.errors import CheckpointError, listed, printable, quoted

METADATA = "__metadata__"
MOST_DIMENSIONS = 64  # as in torch and NumPy; multiplying a million of them would take minutes
LARGEST_TENSOR = 1 << 60  # bytes; a shape beyond it is a mistake or an attack

_COMPLEX = "complex numbers have no place in a sum of weights"
_SUB_BYTE = "several elements share a byte: it is packed, quantized data"
_FNUZ = "its NaN and zero differ from those of every dtype that can be written"
_WHY_NOT = {
    "C64": _COMPLEX,
    "C128": _COMPLEX,
    "F4": _SUB_BYTE,
    "F6_E2M3": _SUB_BYTE,
    "F6_E3M2": _SUB_BYTE,
    "F8_E8M0": "it holds the scales of quantized data, which are no weights by themselves",
    "F8_E4M3FNUZ": _FNUZ,
    "F8_E5M2FNUZ": _FNUZ,
}


class _Refused(Exception):
    """What is wrong with a header, before anyone says which file it is in."""

    verdict = "is damaged or hostile"
    help: str | None = "download it again, or write it again with the safetensors library"

    def __init__(self, message: str, note: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.note = note


class _Unsupported(_Refused):
    """A header that is as it should be, with something in it that has no place in a sum."""

    verdict = "cannot be used"
    help = None


def parse_header(
    content: bytes, data_size: int, *, path: str, shard: int = 0
) -> tuple[list[TensorSpec], dict[str, str]]:
    """Turn a header into tensor specs in the order of their bytes, and the file's metadata.

    Args:
        content: the header, without the eight bytes that hold its length.
        data_size: bytes of the file after the header; the tensors must fill them exactly.
        path: what messages call the file.
        shard: index to put into the specs.

    Raises:
        CheckpointError: the header breaks a rule, or holds a dtype that cannot be summed.

    Memory: at most 15 times the header.
    """
    start = len(content) + 8
    try:
        with _without_collector():
            entries = _load(content)
            metadata = _metadata(entries.pop(METADATA, {}))
            specs = _specs(entries, start, data_size, shard)
            specs.sort(key=lambda spec: (spec.offset, spec.nbytes))
            _check_tiling(specs, start, data_size)
    except _Refused as refused:
        message = f"{quoted(path)} {refused.verdict}: {refused.message}"
        raise CheckpointError(message, note=refused.note, help=refused.help) from None
    return specs, metadata


@contextmanager
def _without_collector() -> Iterator[None]:
    """Pause the garbage collector, which would look through all of numba and NumPy ten times.

    A header makes many objects and no cycles; with the collector it takes three times as long.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _load(content: bytes) -> dict[str, Any]:
    if not content.startswith(b"{"):
        _refuse("its header does not start with '{'")
    if content.count(b"[") + content.count(b"{") > 1000 + len(content) // 8:
        # A tensor takes 50 bytes and three brackets. A hundred MB of "[]," take 5 GB of memory.
        _refuse("its header has more brackets than any list of tensors")
    try:
        text = content.decode("utf-8")
        entries: dict[str, Any] = json.loads(text, parse_constant=_no_constant)
        if not _nothing_dropped(text, entries):
            json.loads(text, object_pairs_hook=_unique)
        if "\\u" in text:  # half of a surrogate pair passes the JSON parser and is no character
            json.dumps(entries, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        _refuse("its header is not UTF-8", str(error))
    except RecursionError:
        _refuse("its header is nested too deep")
    except ValueError as error:
        _refuse("its header is not JSON", printable(str(error)))
    return entries


def _nothing_dropped(text: str, entries: dict[str, Any]) -> bool:
    """Tell whether no key was there twice, from the number of strings: each has two quotes.

    A tensor's entry has five strings: its name, three keys and the dtype. Extra keys and escapes
    make it say no, and the slow way decides; an entry with fewer is refused anyway.
    """
    metadata = entries.get(METADATA)
    about = 1 + 2 * len(metadata) if isinstance(metadata, dict) else 0
    strings = 5 * (len(entries) - (METADATA in entries)) + about
    return "\\" not in text and text.count('"') == 2 * strings


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            _refuse(f"its header has {quoted(key)} twice")
        found[key] = value
    return found


def _no_constant(word: str) -> NoReturn:
    _refuse(f"its header holds {word}, which is not JSON")


def _metadata(found: object) -> dict[str, str]:
    if not isinstance(found, dict):
        _refuse(f"{quoted(METADATA)} is not an object", _found(found))
    for key, value in found.items():
        if not isinstance(value, str):
            _refuse(f"{quoted(METADATA)} holds {quoted(key)}, which is no string", _found(value))
    return found


def _specs(entries: dict[str, Any], start: int, data_size: int, shard: int) -> list[TensorSpec]:
    names = list(entries)
    _check_types(names, "entry", list(entries.values()), dict)
    dtypes = _dtypes(names, _column(entries, "dtype", str))
    shapes = _column(entries, "shape", list)
    ranges = _column(entries, "data_offsets", list)
    for key, column in (("shape", shapes), ("data_offsets", ranges)):
        if not _whole(chain.from_iterable(column)):
            _blame_number(names, key, column)
    if max(map(len, shapes), default=0) > MOST_DIMENSIONS:
        many = [name for name in names if len(entries[name]["shape"]) > MOST_DIMENSIONS]
        _refuse(f"tensor {quoted(many[0])} has more than {MOST_DIMENSIONS} dimensions")
    if set(map(len, ranges)) - {2}:
        name = next(name for name, ends in zip(names, ranges, strict=True) if len(ends) != 2)
        _refuse(f"tensor {quoted(name)} does not have two data_offsets")
    if max(chain.from_iterable(ranges), default=0) > data_size:
        _blame_end(names, ranges, data_size)
    sizes = [end - begin for begin, end in ranges]
    for name, dtype, shape, size in zip(names, dtypes, shapes, sizes, strict=True):
        if math.prod(shape) * dtype.itemsize != size or size == 0:
            _check_size(name, dtype, shape, size)
    offsets = (start + begin for begin, _ in ranges)
    return list(map(TensorSpec, names, dtypes, map(tuple, shapes), repeat(shard), offsets, sizes))


def _column(entries: dict[str, Any], key: str, kind: type) -> list[Any]:
    try:
        column = [entry[key] for entry in entries.values()]
    except KeyError:
        name, entry = next(item for item in entries.items() if key not in item[1])
        note = f"found {listed([quoted(found) for found in entry]) or 'nothing'}"
        _refuse(f"the entry of tensor {quoted(name)} has no {key}", note)
    _check_types(list(entries), key, column, kind)
    return column


def _check_types(names: Sequence[str], key: str, column: list[Any], kind: type) -> None:
    if set(map(type, column)) <= {kind}:
        return
    name, value = next(
        pair for pair in zip(names, column, strict=True) if type(pair[1]) is not kind
    )
    words: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}
    _refuse(f"the {key} of tensor {quoted(name)} is not {words[kind]}", _found(value))


def _dtypes(names: Sequence[str], codes: list[str]) -> list[DType]:
    unknown = set(codes) - BY_CODE.keys()
    if not unknown:
        return [BY_CODE[code] for code in codes]
    name, code = next(pair for pair in zip(names, codes, strict=True) if pair[1] in unknown)
    if code in _WHY_NOT:
        raise _Unsupported(f"tensor {quoted(name)} has dtype {code}", _WHY_NOT[code])
    _refuse(f"tensor {quoted(name)} has an unknown dtype", _found(code))


def _whole(numbers: Iterable[Any]) -> bool:
    """Tell whether all are integers (no bool, no float) and none is negative."""
    found = list(numbers)
    return set(map(type, found)) <= {int} and min(found, default=0) >= 0


def _blame_number(names: Sequence[str], key: str, column: list[list[Any]]) -> NoReturn:
    name, found = next(
        (name, number)
        for name, numbers in zip(names, column, strict=True)
        for number in numbers
        if not _whole([number])
    )
    _refuse(f"the {key} of tensor {quoted(name)} has a wrong number", _found(found))


def _check_size(name: str, dtype: DType, shape: list[int], size: int) -> None:
    """Refuse a shape that does not fill its range, or that overflows behind a zero."""
    text = _brief(f"{shape} of {dtype.code}")
    if math.prod(filter(None, shape)) * dtype.itemsize > LARGEST_TENSOR:
        _refuse(f"the shape of tensor {quoted(name)} overflows", f"it is {text}")
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes != size:
        note = f"{text} takes {nbytes:,} bytes"
        _refuse(f"tensor {quoted(name)} has a range of {size:,} bytes", note)


def _check_tiling(specs: list[TensorSpec], start: int, data_size: int) -> None:
    """Refuse ranges that do not follow each other from the first byte of the data to the last."""
    end = start
    for spec in specs:
        if spec.offset != end:
            _blame_range(spec, end)
        end += spec.nbytes
    if end < start + data_size:
        _refuse(f"its last {start + data_size - end:,} bytes belong to no tensor")


def _blame_end(names: Sequence[str], ranges: list[list[int]], data_size: int) -> NoReturn:
    name = next(name for name, ends in zip(names, ranges, strict=True) if max(ends) > data_size)
    note = f"the file has {data_size:,} bytes after its header"
    _refuse(f"it is cut short: the range of tensor {quoted(name)} ends after the file does", note)


def _blame_range(spec: TensorSpec, end: int) -> NoReturn:
    where = f"it starts at byte {spec.offset:,}; what comes before it ends at {end:,}"
    if spec.offset > end:
        _refuse(f"there is a gap before tensor {quoted(spec.name)}", where)
    _refuse(f"tensor {quoted(spec.name)} overlaps another", where)


def _found(value: object) -> str:
    if isinstance(value, (dict, list)):
        return "found an object" if isinstance(value, dict) else "found a list"
    return f"found {_brief(json.dumps(value))}"


def _brief(text: str) -> str:
    return printable(text if len(text) <= 60 else text[:57] + "...")


def _refuse(message: str, note: str | None = None) -> NoReturn:
    raise _Refused(message, note)
