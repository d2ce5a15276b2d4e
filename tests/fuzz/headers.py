"""Mutants of headers: a file's bytes in, and another file's that differs in its structure.

A header is taken apart into lists of pairs, so that a name can stand there twice, changed, and
mostly put together so that the ranges fit again: else nearly all mutants would fail at the first
check after the JSON.
"""

import copy
import json
import math
import random
from typing import Any

SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2}
SIZES |= {"BF16": 2, "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8}

MOST_BRACKETS = 200  # of a header that is taken apart: that recurses, and must not be what fails


class Pairs(list[Any]):
    """A JSON object: [key, value] pairs in their order."""


class Raw(str):
    """A JSON token, written as it is."""


ODD = ["-0", "1e999", "NaN", "1.0", "1E1", "true", "null", "-1", "[]", "{}", '""', "0x1", "1e-5"]
ODD += [str(2**k + d) for k in (8, 31, 32, 53, 60, 63, 64) for d in (-1, 0, 1)]
ODD += ["9" * 309, "9" * 4301, "Infinity", r'"\ud800"', '"F32"', "[0,4]", "{", '"']
TOKENS = [*ODD, "[", "]", "}", ",", ":", "\\", r"\u0041", " ", "\n", "\0", "\ufeff", "\x7f", "é"]
TOKENS += ['"shape"', '"dtype":"U8"', '"data_offsets":[0,0]', '"__metadata__":{}', "[" * 40]
CODES = [*SIZES, "C64", "F4", "F8_E8M0", "F8_E4M3FNUZ", "F6_E2M3", "f32", "", "F128"]
NAMES = [
    "",
    "__metadata__",
    "t",
    "a.lora_A.weight",
    "a.weight",
    "a.scales",
    "a.qweight",
    "b_blocks",
    "b_scales",
]
NAMES += [
    "b_scales",
    "dtype",
    "λ",
    "\x1b[31m",
    "\u202e",
    "a/../b",
    "\0",
    "\ud800",
    "x" * 300,
    "layers.0.w",
]


def build(entries: Any, data: bytes) -> bytes:
    """Return a file."""
    text = dump(entries).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + data


def tensor(code: str, shape: list[int], start: int) -> Pairs:
    """Return an entry whose range fits."""
    end = start + math.prod(shape) * SIZES[code]
    return Pairs([["dtype", code], ["shape", shape], ["data_offsets", [start, end]]])


def dump(value: Any, rng: random.Random | None = None) -> str:
    """Write JSON, with odd spaces and escapes if there is a generator."""
    space = rng.choice(["", "", " ", "\n"]) if rng else ""
    if isinstance(value, Pairs):
        inner = (f"{_text(key, rng)}{space}:{dump(part, rng)}" for key, part in value)
        return "{" + f",{space}".join(inner) + "}"
    if isinstance(value, list):
        return "[" + f",{space}".join(dump(part, rng) for part in value) + "]"
    if isinstance(value, str) and not isinstance(value, Raw):
        return _text(value, rng)
    return value if isinstance(value, Raw) else json.dumps(value)


def _text(value: str, rng: random.Random | None) -> str:
    if isinstance(value, Raw):
        return value
    text = json.dumps(value, ensure_ascii=bool(rng and rng.random() < 0.5))
    if rng and value and rng.random() < 0.05:
        return f'"\\u{ord(value[0]) & 0xFFFF:04x}{text[2:]}'
    return text


def _seeds() -> list[bytes]:
    shapes: list[tuple[str, str, list[int]]] = [
        ("layers.0.w", "BF16", [2, 3]),
        ("layers.1.w", "F32", [4]),
        ("head", "F8_E4M3", [5]),
        ("mask", "BOOL", []),
        ("none", "I64", [0, 7]),
    ]
    files = [build(Pairs(), b""), build(Pairs([["__metadata__", Pairs([["format", "pt"]])]]), b"")]
    for count in (1, 2, 5):
        entries, end = Pairs([["__metadata__", Pairs([["taskalg", "task-vector"]])]]), 0
        for name, code, shape in shapes[:count]:
            entries.append([name, tensor(code, shape, end)])
            end = entries[-1][1][2][1][1]
        files += [build(entries, bytes(range(end))), build(Pairs(entries[:0:-1]), bytes(end))]
    return files


SEEDS = _seeds()


def split(content: bytes) -> tuple[Any, bytes] | None:
    """Take a file apart, or return None when its header is no JSON object, or a deep one."""
    length = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + length]
    if text.count(b"[") > MOST_BRACKETS:
        return None
    try:
        found = json.loads(text, object_pairs_hook=_pairs)
    except (ValueError, RecursionError):
        return None
    return (found, content[8 + length :]) if isinstance(found, Pairs) else None


def _pairs(pairs: list[tuple[str, Any]]) -> Pairs:
    return Pairs(map(list, pairs))


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Change a file in its structure: values, ranges, shapes, dtypes, names, lengths, nesting."""
    parts = split(content)
    if parts is None:
        if rng.random() < 0.3:
            return _change_text(content, rng, 8)
        parts = split(rng.choice(SEEDS))
        assert parts is not None
    entries, data = parts
    for _ in range(rng.choice([1, 1, 2, 3])):
        rng.choice(CHANGES)(entries, rng)
    if rng.random() < 0.6:
        data = _tile(entries, data)
    text = dump(entries, rng if rng.random() < 0.3 else None).encode("utf-8", "surrogatepass")
    if rng.random() < 0.15:
        text = _change_text(text, rng, 0)
    if rng.random() < 0.05:
        data = data[:-1] if rng.random() < 0.5 else data + b"\x01"
    length = len(text)
    if rng.random() < 0.03:
        length = rng.choice([0, length - 1, length + 1, len(data) + length, 2**63, 10**8 + 1])
    return max(0, length).to_bytes(8, "little") + text + data


def _change_text(text: bytes, rng: random.Random, start: int) -> bytes:
    at = rng.randrange(start, max(start + 1, len(text)))
    until = at + rng.choice([0, 0, 1, 2, 8])
    token = rng.choice(TOKENS).encode() if rng.random() < 0.8 else text[at : at + 30]
    return text[:at] + token + text[until:]


def _tile(entries: Pairs, data: bytes) -> bytes:
    """Make the ranges of all sound tensors follow each other; return data of that size."""
    end = 0
    for _, entry in entries:
        fields = dict(entry) if isinstance(entry, Pairs) else {}
        size, ends = _size(fields.get("dtype"), fields.get("shape")), fields.get("data_offsets")
        if size is not None and type(ends) is list:
            ends[:] = [end, end + size]
            end += size
    return (data + bytes(end))[:end]


def _size(code: Any, shape: Any) -> int | None:
    """Return the bytes of a tensor, or None when it makes no sense or is large."""
    if not isinstance(code, str) or code not in SIZES or type(shape) is not list:
        return None
    if not all(type(size) is int and 0 <= size < 100 for size in shape):
        return None
    nbytes = math.prod(shape) * SIZES[code]
    return nbytes if nbytes <= 500 else None


def _value(rng: random.Random) -> Any:
    kind = rng.randrange(6)
    if kind == 0:
        deep = rng.choice([1, 3, 100, 130, 600, 1100, 1600])
        return Raw("[" * deep + "]" * (deep if deep < 1600 else 0))
    if kind == 1:
        return Pairs([[rng.choice(NAMES), _value(rng)] for _ in range(rng.randrange(3))])
    return Raw(rng.choice(ODD)) if kind < 4 else rng.choice([rng.choice(NAMES), 1, [1, 2], []])


def _some(entries: Pairs, rng: random.Random) -> Any:
    """Return one entry's pair, or a fresh one when there is none."""
    if not entries:
        entries.append(["t", tensor("U8", [1], 0)])
    return rng.choice(entries)


def _field(entries: Pairs, rng: random.Random, key: str) -> list[Any]:
    pair = _some(entries, rng)
    if isinstance(pair[1], Pairs):
        for field in pair[1]:
            if field[0] == key:
                return field  # type: ignore[no-any-return]
        pair[1].append([key, []])
        return pair[1][-1]  # type: ignore[no-any-return]
    return pair  # type: ignore[no-any-return]


def _add(entries: Pairs, rng: random.Random) -> None:
    shape = [rng.choice([0, 1, 1, 2, 3]) for _ in range(rng.choice([0, 1, 2, 2, 3, 64, 65]))]
    name = rng.choice(NAMES) if rng.random() < 0.3 else f"n{rng.randrange(1000)}"
    if math.prod(shape) < 500:
        entries.insert(
            rng.randrange(len(entries) + 1), [name, tensor(rng.choice([*SIZES]), shape, 0)]
        )


def _drop(entries: Pairs, rng: random.Random) -> None:
    if entries:
        del entries[rng.randrange(len(entries))]


def _repeat(entries: Pairs, rng: random.Random) -> None:
    name, entry = _some(entries, rng)
    new = name if rng.random() < 0.3 else f"{name}{rng.randrange(100)}"
    entries.append([new, copy.deepcopy(entry)])


def _swap(entries: Pairs, rng: random.Random) -> None:
    rng.shuffle(entries)


def _code(entries: Pairs, rng: random.Random) -> None:
    field = _field(entries, rng, "dtype")
    field[1] = rng.choice(CODES) if rng.random() < 0.8 else _value(rng)


def _numbers(entries: Pairs, rng: random.Random) -> None:
    field = _field(entries, rng, rng.choice(["shape", "data_offsets"]))
    if not isinstance(field[1], list) or isinstance(field[1], Pairs) or rng.random() < 0.1:
        field[1] = _value(rng)
        return
    numbers, at = field[1], rng.randrange(len(field[1]) + 1)
    new = Raw(rng.choice(ODD)) if rng.random() < 0.4 else rng.choice([0, 1, 2, 3, 4, 5, 8, 16])
    if rng.random() < 0.2 and at < len(numbers) and type(numbers[at]) is int:
        new = numbers[at] + rng.choice([-1, 1])
    numbers[at : at + rng.choice([0, 1, 1, 1])] = [new] * rng.choice([0, 1, 1, 1, 1, 1, 64])


def _rename(entries: Pairs, rng: random.Random) -> None:
    others = [key for key, _ in entries]
    _some(entries, rng)[0] = rng.choice([*NAMES, *others])


def _metadata(entries: Pairs, rng: random.Random) -> None:
    pairs = [[rng.choice(NAMES), rng.choice(NAMES)] for _ in range(rng.randrange(4))]
    entries.insert(0, ["__metadata__", Pairs(pairs) if rng.random() < 0.7 else _value(rng)])


def _extra(entries: Pairs, rng: random.Random) -> None:
    pair = _some(entries, rng)
    if isinstance(pair[1], Pairs):
        pair[1].append([rng.choice([*NAMES, "strides", "shape"]), _value(rng)])


def _anything(entries: Pairs, rng: random.Random) -> None:
    _some(entries, rng)[1] = _value(rng)


CHANGES = [_add, _add, _add, _drop, _repeat, _swap, _code, _code, _numbers, _numbers, _numbers]
CHANGES += [_rename, _metadata, _extra, _anything]
