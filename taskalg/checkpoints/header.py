"""The header of a safetensors file: its JSON becomes tensor specs, or an error naming the tensor.

Nothing is believed before it is checked: no allocation follows a number from the file. The rules
are those of the format's description, https://github.com/huggingface/safetensors#format, and where
the reference reader is laxer we are not: names must be unique (it keeps the last), the first byte
must be `{` (it skips spaces before it), the metadata an object (it takes null for none), and no
size may overflow behind a zero. What it refuses and we do not is harmless: `-0` as a number; and in
a key that nobody reads, nesting deeper than 128 and numbers beyond 1e308. tests/fuzz compares the
two.

Checks go by columns, each one call into C for all tensors; only when one fails are the tensors
looked at one by one, for the name to blame. 18,000 tensors take 0.05 s, of which the JSON parser
has half; a loop over tensors with its checks inside took twice as long.
"""

import gc
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from typing import Any, NoReturn, TypeAlias

from taskalg.checkpoints.base import TensorSpec
from taskalg.checkpoints.strict_json import NotStrictError, parse_object
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
_KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}

Entries: TypeAlias = dict[str, Any]  # the header's JSON: an entry for each name
Names: TypeAlias = Iterable[str]
Column: TypeAlias = list[Any]  # one field of all entries


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


def _load(content: bytes) -> Entries:
    if not content.startswith(b"{"):
        _refuse("its header does not start with '{'")
    if content.count(b"[") + content.count(b"{") > 1000 + len(content) // 8:
        # A tensor takes 50 bytes and three brackets. A hundred MB of "[]," take 5 GB of memory.
        _refuse("its header has more brackets than any list of tensors")
    try:
        return parse_object(content, _count_strings)
    except NotStrictError as error:
        _refuse(f"its header {error}", error.note)


def _count_strings(entries: Entries) -> int:
    """Return how many strings a usual header has: a name, three keys and a dtype per tensor.

    A header with fewer is refused anyway.
    """
    strings = 5 * len(entries)
    metadata = entries.get(METADATA)
    if isinstance(metadata, dict):
        strings += 2 * len(metadata) + 1 - 5
    return strings


def _metadata(found: object) -> dict[str, str]:
    if not isinstance(found, dict):
        _refuse(f"{quoted(METADATA)} is not an object", _found(found))
    for key, value in found.items():
        if not isinstance(value, str):
            _refuse(f"{quoted(METADATA)} holds {quoted(key)}, which is no string", _found(value))
    return found


def _specs(entries: Entries, start: int, data_size: int, shard: int) -> list[TensorSpec]:
    names = list(entries)
    _check_types(names, "entry", list(entries.values()), dict)
    dtypes = _dtypes(names, _column(entries, "dtype", str))
    shapes = _column(entries, "shape", list)
    ranges = _column(entries, "data_offsets", list)
    _check_numbers(names, "shape", shapes)
    _check_numbers(names, "data_offsets", ranges)
    if max(map(len, shapes), default=0) > MOST_DIMENSIONS:
        name, _ = _first(names, shapes, lambda shape: len(shape) > MOST_DIMENSIONS)
        _refuse(f"tensor {quoted(name)} has more than {MOST_DIMENSIONS} dimensions")
    _check_ends(names, ranges, data_size)
    sizes = [end - begin for begin, end in ranges]
    rows = zip(names, dtypes, shapes, sizes, strict=True)
    for name, dtype, shape, size in rows:
        if math.prod(shape) * dtype.itemsize != size or size == 0:
            _check_size(name, dtype, shape, size)
    offsets = (start + begin for begin, _ in ranges)
    specs = map(
        TensorSpec,
        names,
        dtypes,
        map(tuple, shapes),
        repeat(shard),
        offsets,
        sizes,
    )
    return list(specs)


def _column(entries: Entries, key: str, kind: type) -> Column:
    try:
        column = [entry[key] for entry in entries.values()]
    except KeyError:
        rows = list(entries.values())
        name, entry = _first(entries, rows, lambda entry: key not in entry)
        there = [quoted(other) for other in entry]
        note = f"found {listed(there) or 'nothing'}"
        _refuse(f"the entry of tensor {quoted(name)} has no {key}", note)
    _check_types(entries, key, column, kind)
    return column


def _check_types(names: Names, key: str, column: Column, kind: type) -> None:
    if set(map(type, column)) <= {kind}:
        return
    name, value = _first(names, column, lambda value: type(value) is not kind)
    _refuse(f"the {key} of tensor {quoted(name)} is not {_KINDS[kind]}", _found(value))


def _dtypes(names: Names, codes: Column) -> list[DType]:
    unknown = set(codes) - BY_CODE.keys()
    if not unknown:
        return [BY_CODE[code] for code in codes]
    name, code = _first(names, codes, unknown.__contains__)
    if code in _WHY_NOT:
        raise _Unsupported(f"tensor {quoted(name)} has dtype {code}", _WHY_NOT[code])
    _refuse(f"tensor {quoted(name)} has an unknown dtype", _found(code))


def _whole(numbers: Iterable[Any]) -> bool:
    """Tell whether all are integers (no bool, no float) and none is negative."""
    found = list(numbers)
    return set(map(type, found)) <= {int} and min(found, default=0) >= 0


def _check_numbers(names: Names, key: str, column: Column) -> None:
    if _whole(chain.from_iterable(column)):
        return
    name, numbers = _first(names, column, lambda numbers: not _whole(numbers))
    wrong = next(number for number in numbers if not _whole([number]))
    _refuse(f"the {key} of tensor {quoted(name)} has a wrong number", _found(wrong))


def _check_ends(names: Names, ranges: Column, data_size: int) -> None:
    if set(map(len, ranges)) - {2}:
        name, _ = _first(names, ranges, lambda ends: len(ends) != 2)
        _refuse(f"tensor {quoted(name)} does not have two data_offsets")
    if max(chain.from_iterable(ranges), default=0) > data_size:
        name, _ = _first(names, ranges, lambda ends: max(ends) > data_size)
        _refuse(
            f"it is cut short: the range of tensor {quoted(name)} ends after the file does",
            f"the file has {data_size:,} bytes after its header",
        )


def _first(names: Names, column: Column, is_wrong: Callable[[Any], bool]) -> tuple[str, Any]:
    """Find the tensor to blame, once a check of the whole column has failed."""
    for name, value in zip(names, column, strict=True):
        if is_wrong(value):
            return name, value
    raise AssertionError("a check of the whole column was wrong")


def _check_size(name: str, dtype: DType, shape: list[int], size: int) -> None:
    """Refuse a shape that does not fill its range, or that overflows behind a zero."""
    text = _brief(f"{shape} of {dtype.code}")
    without_zeros = math.prod(filter(None, shape))
    if without_zeros * dtype.itemsize > LARGEST_TENSOR:
        _refuse(f"the shape of tensor {quoted(name)} overflows", f"it is {text}")
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes != size:
        note = f"{text} takes {nbytes:,} bytes"
        _refuse(f"tensor {quoted(name)} has a range of {size:,} bytes", note)


def _check_tiling(specs: list[TensorSpec], start: int, data_size: int) -> None:
    """Refuse ranges that do not follow each other from the first byte of the data to the last."""
    end = start
    file_size = start + data_size
    for spec in specs:
        if spec.offset != end:
            _blame_range(spec, end)
        end += spec.nbytes
    if end < file_size:
        _refuse(f"its last {file_size - end:,} bytes belong to no tensor")


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
