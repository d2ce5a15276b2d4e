"""What an expression means, written from LANGUAGE.md for one tensor and one element at a time.

Nothing here may know how the package does it: of the package only the tree's nodes are imported.
Patterns are matched by hand, layers are counted by hand, kinds are totals, and rounding looks for
the two neighbors of the exact value among all bit patterns of a format.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path

from taskalg.language import nodes

# ---- Values: a scalar, or coefficients by checkpoint

Row = dict[str, Fraction]
Value = Fraction | Row
Mention = Callable[[str], tuple[str, bool]]  # path -> checkpoint's key, and whether it is a vector
Measure = Callable[[nodes.Call], Fraction]


@dataclass(frozen=True)
class Place:
    """A tensor's layer and the ends of its stack."""

    layer: int
    first: int
    last: int


def matches(pattern: str, name: str) -> bool:
    """Shell patterns: * any run, ? any one, [abc] [a-c] one of, [!abc] one not of."""
    if not pattern:
        return not name
    head = pattern[0]
    if head == "*":
        rest = pattern.lstrip("*")
        return not rest or any(matches(rest, name[i:]) for i in range(len(name) + 1))
    if not name:
        return False
    if head == "[":
        start = 2 if pattern[1:2] == "!" else 1
        close = pattern.find("]", start + 1)  # the first may be a member
        if close > 0:
            inside = _is_member(name[0], pattern[start:close])
            return inside != (start == 2) and matches(pattern[close + 1 :], name[1:])
    return head in ("?", name[0]) and matches(pattern[1:], name[1:])


def _is_member(char: str, members: str) -> bool:
    index = 0
    while index < len(members):
        if members[index + 1 : index + 2] == "-" and index + 2 < len(members):
            if members[index] <= char <= members[index + 2]:
                return True
            index += 3
            continue
        if members[index] == char:
            return True
        index += 1
    return False


def stack_and_layer(name: str) -> tuple[str, int] | None:
    before: list[str] = []
    for component in name.split("."):
        if component and all(char in "0123456789" for char in component):
            return ".".join(before), int(component)
        before.append(component)
    return None


def place_of(name: str, names: Iterable[str]) -> Place | None:
    mine = stack_and_layer(name)
    if mine is None:
        return None
    found = [entry for entry in map(stack_and_layer, names) if entry is not None]
    layers = [layer for stack, layer in found if stack == mine[0]]
    return Place(mine[1], min(layers), max(layers))


def in_range(start: int | None, stop: int | None, place: Place | None) -> bool:
    if place is None:
        return False
    count = place.last + 1  # negative numbers count from here
    low = 0 if start is None else start if start >= 0 else count + start
    high = count if stop is None else stop if stop >= 0 else count + stop
    return low <= place.layer < high


def ramp_value(values: Sequence[Fraction], place: Place | None) -> Fraction:
    if place is None or place.first == place.last:
        return values[0]
    depth = Fraction(place.layer - place.first, place.last - place.first)
    pieces = len(values) - 1
    for piece in range(pieces):
        left, right = Fraction(piece, pieces), Fraction(piece + 1, pieces)
        if left <= depth <= right:
            share = (depth - left) / (right - left)
            return values[piece] * (1 - share) + values[piece + 1] * share
    raise AssertionError("a depth is between 0 and 1")


@dataclass
class World:
    """What names mean, and where one tensor stands."""

    tensor: str
    place: Place | None
    values: dict[str, Value]
    functions: dict[str, nodes.Definition] = field(default_factory=dict)
    mention: Mention = lambda path: (path, False)
    measure: "Measure | None" = None  # the number of norm, dot or cos


def evaluate(
    recipe: nodes.Recipe,
    given: Mapping[str, Value],
    tensor: str,
    names: Sequence[str],
    mention: Mention | None = None,
) -> Value:
    """Return what a recipe's expression is on one tensor."""
    assert recipe.expression is not None
    world = World(tensor, place_of(tensor, names), dict(given))
    if mention is not None:
        world.mention = mention
    for statement in recipe.statements:
        if isinstance(statement, nodes.Definition):
            world.functions[statement.name] = statement
        elif isinstance(statement, nodes.Binding) and statement.name not in given:
            world.values[statement.name] = meaning(statement.value, world, {})
    return meaning(recipe.expression, world, {})


def meaning(node: nodes.Node, world: World, local: Mapping[str, Value]) -> Value:
    match node:
        case nodes.Number():
            return Fraction(node.text.replace("_", ""))
        case nodes.Name():
            return local[node.name] if node.name in local else world.values[node.name]
        case nodes.Signed():
            value = meaning(node.operand, world, local)
            return scaled(value, Fraction(-1)) if node.operator == "-" else value
        case nodes.Sum():
            total = meaning(node.operands[0], world, local)
            for sign, operand in zip(node.operators, node.operands[1:], strict=True):
                value = meaning(operand, world, local)
                total = added(total, scaled(value, Fraction(-1)) if sign == "-" else value)
            return total
        case nodes.Product():
            result = meaning(node.operands[0], world, local)
            for sign, operand in zip(node.operators, node.operands[1:], strict=True):
                factor = meaning(operand, world, local)
                if sign == "/":
                    assert isinstance(factor, Fraction)
                    factor = 1 / factor
                result = multiplied(result, factor)
            return result
        case nodes.Select():
            value = meaning(node.operand, world, local)
            return scaled(value, Fraction(int(is_selected(node.items, world))))
        case nodes.Call():
            return _call(node, world, local)


def added(a: Value, b: Value) -> Value:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a + b
    rows = [row for row in (a, b) if isinstance(row, dict)]
    assert all(x == 0 for x in (a, b) if isinstance(x, Fraction)), "only 0 may be added to these"
    keys = {key: None for row in rows for key in row}
    return {key: sum((row.get(key, Fraction(0)) for row in rows), Fraction(0)) for key in keys}


def scaled(value: Value, factor: Fraction) -> Value:
    if isinstance(value, Fraction):
        return value * factor
    return {key: coefficient * factor for key, coefficient in value.items()}


def multiplied(a: Value, b: Value) -> Value:
    if isinstance(b, Fraction):
        return scaled(a, b)
    assert isinstance(a, Fraction), "one side of a product is a scalar"
    return scaled(b, a)


def is_selected(items: Sequence[nodes.Pattern | nodes.Layers], world: World) -> bool:
    hits = [(item.excluded, _hit(item, world)) for item in items]
    if any(hit for excluded, hit in hits if excluded):
        return False
    plain = [hit for excluded, hit in hits if not excluded]
    return not plain or any(plain)


def _hit(item: nodes.Pattern | nodes.Layers, world: World) -> bool:
    if isinstance(item, nodes.Pattern):
        return matches(item.text, world.tensor)
    if not item.single:
        return in_range(item.start, item.stop, world.place)
    assert item.start is not None
    stop = None if item.start == -1 else item.start + 1
    return in_range(item.start, stop, world.place)


def _call(node: nodes.Call, world: World, local: Mapping[str, Value]) -> Value:
    plain = [argument.value for argument in node.arguments if argument.keyword is None]
    named = {a.keyword: a.value for a in node.arguments if a.keyword is not None}
    if node.function in ("checkpoint", "task"):
        path = named.get("path", plain[0] if plain else None)
        assert isinstance(path, nodes.String)
        key, is_vector = world.mention(path.text)
        base = named.get("base", plain[1] if len(plain) > 1 else None)
        if node.function == "checkpoint" or is_vector:
            return {key: Fraction(1)}
        against = meaning(base, world, local) if base is not None else world.values["base"]  # type: ignore[arg-type]
        return added({key: Fraction(1)}, scaled(against, Fraction(-1)))

    def values(parameters: Sequence[str]) -> list[Value]:
        in_order = [*plain, *(named[name] for name in parameters if name in named)]
        return [meaning(value, world, local) for value in in_order]  # type: ignore[arg-type]

    if node.function in ("norm", "dot", "cos"):
        assert world.measure is not None
        return world.measure(node)
    if node.function in world.functions:
        definition = world.functions[node.function]
        parameters = [parameter.name for parameter in definition.parameters]
        arguments = dict(zip(parameters, values(parameters), strict=True))
        return meaning(definition.body, world, arguments)
    if node.function == "lerp":
        a, b, t = values(("a", "b", "t"))
        assert isinstance(t, Fraction)
        return added(scaled(a, 1 - t), scaled(b, t))
    if node.function == "mean":
        several = values(())
        total: Value = Fraction(0)
        for value in several:
            total = added(total, value)
        return scaled(total, Fraction(1, len(several)))
    if node.function == "analogy":
        a, b, c = values(("a", "b", "c"))
        return added(c, added(b, scaled(a, Fraction(-1))))
    assert node.function == "ramp", node.function
    numbers = [value for value in values(()) if isinstance(value, Fraction)]
    return ramp_value(numbers, world.place)


def nonzero(value: Value) -> Row:
    """Drop the checkpoints that cancelled."""
    assert isinstance(value, dict)
    return {key: coefficient for key, coefficient in value.items() if coefficient}


def kind(rows: Iterable[Value], vectors: Iterable[str] = ()) -> str:
    """Return the kind from a value on every tensor; files that are vectors count 0."""
    everywhere = list(rows)
    if all(isinstance(row, Fraction) for row in everywhere):
        return "scalar"
    left_out = set(vectors)
    totals = {
        sum((c for key, c in row.items() if key not in left_out), Fraction(0))
        for row in everywhere
        if isinstance(row, dict)
    }
    if totals == {Fraction(1)}:
        return "model"
    return "task vector" if totals == {Fraction(0)} else "partial"


# ---- Elements: bit patterns of the formats, decoded and rounded by hand


@dataclass(frozen=True)
class Format:
    """A binary floating format: sign, exponent, fraction."""

    exponent_bits: int
    fraction_bits: int
    has_inf: bool = True

    @property
    def width(self) -> int:
        return (1 + self.exponent_bits + self.fraction_bits) // 8

    @property
    def sign(self) -> int:
        return 1 << (self.exponent_bits + self.fraction_bits)

    @property
    def first_special(self) -> int:
        """The smallest pattern that is no number: infinity, or e4m3's only NaN."""
        return self.sign - (1 << self.fraction_bits) if self.has_inf else self.sign - 1

    @property
    def nan(self) -> int:
        """The one pattern of a computed NaN: positive and quiet."""
        if not self.has_inf:
            return self.first_special
        return self.first_special + (1 << (self.fraction_bits - 1))


FORMATS = {
    "BF16": Format(8, 7),
    "F16": Format(5, 10),
    "F32": Format(8, 23),
    "F64": Format(11, 52),
    "F8_E4M3": Format(4, 3, has_inf=False),
    "F8_E5M2": Format(5, 2),
}
Element = Fraction | float  # a number, or an infinity or NaN; a zero's sign is looked up apart


@cache
def magnitude(pattern: int, form: Format) -> Fraction:
    """Return the number of a pattern without its sign, as if there were no infinity."""
    exponent, fraction = divmod(pattern, 1 << form.fraction_bits)
    bias = (1 << (form.exponent_bits - 1)) - 1
    if exponent == 0:
        return Fraction(fraction, 1 << form.fraction_bits) * Fraction(2) ** (1 - bias)
    return (1 + Fraction(fraction, 1 << form.fraction_bits)) * Fraction(2) ** (exponent - bias)


def decode(pattern: int, form: Format) -> Element:
    size = pattern & (form.sign - 1)
    sign = -1 if pattern & form.sign else 1
    if size >= form.first_special:
        return sign * math.inf if form.has_inf and size == form.first_special else math.nan
    return sign * magnitude(size, form)


def nearest(value: Fraction, form: Format) -> int:
    """Return the pattern nearest to a number that is not negative; ties go to the even one."""
    low, high = 0, form.first_special
    if value >= magnitude(high, form):
        return form.first_special
    while high - low > 1:
        middle = (low + high) // 2
        if magnitude(middle, form) <= value:
            low = middle
        else:
            high = middle
    below, above = value - magnitude(low, form), magnitude(high, form) - value
    if below == above:
        return low if low % 2 == 0 else high
    return low if below < above else high


def combine(patterns: Sequence[int], forms: Sequence[Format], row: Sequence[Fraction]) -> Element:
    """Return sum of coefficient times element, exactly; a negative zero is the float -0.0."""
    special: list[float] = []
    total, all_negative_zero = Fraction(0), True
    for pattern, form, coefficient in zip(patterns, forms, row, strict=True):
        element = decode(pattern, form)
        negative = bool(pattern & form.sign) != (coefficient < 0)
        if isinstance(element, float):
            special.append(element if coefficient > 0 else -element)
            continue
        total += coefficient * element
        all_negative_zero = all_negative_zero and element == 0 and negative
    if special:
        return special[0] if len(set(special)) == 1 else math.nan
    return -0.0 if all_negative_zero else total


def encode(value: Element, form: Format) -> int:
    if isinstance(value, float):
        if math.isnan(value):
            return form.nan
        if value == 0:
            return form.sign
        size = form.first_special
    else:
        size = nearest(abs(value), form)
    if not form.has_inf and size == form.first_special:
        return form.nan
    return size | (form.sign if value < 0 else 0)


# ---- Measured scalars, of elements that are numbers


def elements(rows: Mapping[str, Row], checkpoints: Mapping[str, "Tensors"]) -> list[Fraction]:
    """Return all floating elements of a sum, one after the other, each rounded once to binary64."""
    form, found = FORMATS["F64"], []
    shapes = next(iter(checkpoints.values()))
    for name, row in rows.items():
        if shapes[name].dtype not in FORMATS:
            continue
        terms = [checkpoints[key][name] for key in row]
        columns = zip(*(term.patterns for term in terms), strict=True)
        forms = [FORMATS[term.dtype] for term in terms]
        for column in columns:
            value = encode(combine(column, forms, list(row.values())), form)
            number = decode(value, form)
            assert isinstance(number, Fraction)
            found.append(number)
        found += [Fraction(0)] * (0 if row else len(shapes[name].patterns))
    return found


def measured(function: str, arguments: Sequence[Sequence[Fraction]]) -> tuple[float, float]:
    """Return a measured scalar, and how large the numbers are that may not be exact."""
    x, y = arguments[0], arguments[-1]
    xx, yy = (sum((e * e for e in one), Fraction(0)) for one in (x, y))
    xy = sum((a * b for a, b in zip(x, y, strict=True)), Fraction(0))
    norms = math.sqrt(xx) * math.sqrt(yy)
    if function == "norm":
        return math.sqrt(xx), math.sqrt(xx)
    return (float(xy), norms) if function == "dot" else (float(xy) / norms, 1.0)


# ---- Files


@dataclass(frozen=True)
class Tensor:
    """One tensor with its bytes."""

    dtype: str  # as in a safetensors header
    shape: tuple[int, ...]
    data: bytes

    @property
    def patterns(self) -> list[int]:
        width = FORMATS[self.dtype].width
        return [
            int.from_bytes(self.data[i : i + width], "little")
            for i in range(0, len(self.data), width)
        ]


Tensors = dict[str, Tensor]


def write_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, tensors in the given order."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + len(tensor.data)
        header[name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    content = b"".join(tensor.data for tensor in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)


def write_folder(path: Path, shards: Sequence[Mapping[str, Tensor]]) -> None:
    """Write a Hugging Face folder of one or more shards."""
    path.mkdir()
    if len(shards) == 1:
        write_file(path / "model.safetensors", shards[0], {"format": "pt"})
        return
    homes: dict[str, str] = {}
    for index, tensors in enumerate(shards, 1):
        home = f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        write_file(path / home, tensors, {"format": "pt"})
        homes |= dict.fromkeys(tensors, home)
    index_text = json.dumps({"metadata": {}, "weight_map": homes})
    (path / "model.safetensors.index.json").write_text(index_text, encoding="utf-8")


def read_file(path: Path) -> Tensors:
    """Read a safetensors file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    data = content[8 + length :]
    return {
        name: Tensor(entry["dtype"], tuple(entry["shape"]), data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def read_metadata(path: Path) -> dict[str, str]:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return found


def donor(rows: Mapping[str, Row], vectors: Iterable[str] = ()) -> str:
    """Return the donor: `base` unless it cancels, else the largest coefficient, ties by name."""
    largest: Row = {}
    for row in rows.values():
        for key, coefficient in row.items():
            largest[key] = max(largest.get(key, coefficient), coefficient)
    if "base" in largest:
        return "base"
    left_out = set(vectors)
    return min(largest, key=lambda key: (key in left_out, -largest[key], key))


def result(
    rows: Mapping[str, Row],
    checkpoints: Mapping[str, Tensors],
    *,
    is_vector: bool = False,
    dtype: str | None = None,
) -> Tensors:
    """Return the tensors that a sum must write, bit for bit.

    Args:
        rows: non-zero coefficients by tensor name.
        checkpoints: tensors by checkpoint.
        is_vector: whether the result is a task vector.
        dtype: of floating tensors; None for the rule.
    """
    giver = checkpoints[donor(rows)]
    found: Tensors = {}
    for name, given in giver.items():
        row = rows[name]
        if given.dtype not in FORMATS:
            if not is_vector:
                found[name] = given
            continue
        terms = [checkpoints[key][name] for key in row]
        output = dtype or given.dtype
        if is_vector and dtype is None:
            width = max([4, *(FORMATS[term.dtype].width for term in terms)])
            output = "F64" if width == 8 else "F32"
        found[name] = Tensor(output, given.shape, _sum(terms, list(row.values()), given, output))
    return found


def _sum(terms: Sequence[Tensor], row: Sequence[Fraction], shape: Tensor, output: str) -> bytes:
    form = FORMATS[output]
    if list(row) == [1] and terms[0].dtype == output:
        return terms[0].data  # copied as it is
    if not terms:
        return bytes(len(shape.data) // FORMATS[shape.dtype].width * form.width)
    forms = [FORMATS[term.dtype] for term in terms]
    columns = zip(*(term.patterns for term in terms), strict=True)
    patterns = (encode(combine(column, forms, row), form) for column in columns)
    return b"".join(pattern.to_bytes(form.width, "little") for pattern in patterns)
