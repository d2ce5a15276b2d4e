"""Random trees of the language, their text, and random checkpoints.

Trees are made of the language's own nodes and always make sense; `written` turns one into text with
brackets, spaces and spellings chosen at random, so that the parser is part of every law.
"""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache

from hypothesis import settings
from hypothesis import strategies as st

from taskalg.errors import Source, Span
from taskalg.language import nodes
from taskalg.language.nodes import Node
from tests.oracle import FORMATS, Tensor, Tensors

NOWHERE = Span(Source("<made>", ""), 0, 0)
MODELS = ("base", "a", "b", "ft")
TASKS = ("toxic", "λ")  # taken against base
LEAVES = MODELS + TASKS
SCALARS = ("strength",)
NUMBERS = ("0", "1", "2", "0.5", ".25", "0.4", "1e-1", "1_0", "3", "7.", "0.3", "1E2")
DIVISORS = ("2", "0.5", "3", "1e1", "7")
PATTERNS = ("*p*", "*q*", "*", "*.mlp.*", "*.[ab]", "?.q", "[!p]*", "*.1.*", "nothing")
BOUNDS = (-3, -2, -1, 0, 1, 2, 3)

MORE = int(os.environ.get("TASKALG_EXAMPLES", "1"))  # multiplies the examples of every law


def examples(count: int) -> settings:
    """Try so many examples of a law, or a multiple: see MORE, and the profiles in conftest.py."""
    return settings(max_examples=count * MORE)


# ---- Trees


def number(text: str) -> nodes.Number:
    return nodes.Number(text, Fraction(text.replace("_", "")), NOWHERE)


def name(text: str) -> nodes.Name:
    return nodes.Name(text, NOWHERE)


def call(function: str, *arguments: Node) -> nodes.Call:
    plain = tuple(nodes.Argument(None, argument, NOWHERE) for argument in arguments)
    return nodes.Call(function, plain, NOWHERE, NOWHERE)


def total(operands: Sequence[Node], operators: Sequence[str]) -> nodes.Sum:
    return nodes.Sum(tuple(operands), tuple(operators), NOWHERE)


def product(operands: Sequence[Node], operators: Sequence[str]) -> nodes.Product:
    return nodes.Product(tuple(operands), tuple(operators), NOWHERE)


def chains(
    make: Callable[[Sequence[Node], Sequence[str]], Node],
    operand: st.SearchStrategy[Node],
    operators: str,
    most: int = 3,
) -> st.SearchStrategy[Node]:
    counts = st.integers(2, most)
    return counts.flatmap(
        lambda count: st.builds(
            make,
            st.lists(operand, min_size=count, max_size=count),
            st.lists(st.sampled_from(operators), min_size=count - 1, max_size=count - 1),
        )
    )


def signed(operand: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    return st.builds(
        lambda sign, node: nodes.Signed(sign, node, NOWHERE), st.sampled_from("+-"), operand
    )


def items(patterns: tuple[str, ...] = PATTERNS) -> st.SearchStrategy[nodes.Pattern | nodes.Layers]:
    bound = st.sampled_from(BOUNDS)
    pattern = st.builds(
        lambda text, out: nodes.Pattern(text, out, NOWHERE),
        st.sampled_from(patterns),
        st.booleans(),
    )
    layer = st.builds(
        lambda start, out: nodes.Layers(start, None, True, out, NOWHERE), bound, st.booleans()
    )
    layers = st.builds(
        lambda start, stop, out: nodes.Layers(start, stop, False, out, NOWHERE),
        st.none() | bound,
        st.none() | bound,
        st.booleans(),
    )
    return pattern | layer | layers


def selects(
    operand: st.SearchStrategy[Node], patterns: tuple[str, ...] = PATTERNS
) -> st.SearchStrategy[Node]:
    chosen = st.lists(items(patterns), min_size=1, max_size=3)
    return st.builds(lambda node, some: nodes.Select(node, tuple(some), NOWHERE), operand, chosen)


@cache
def constants(depth: int = 1) -> st.SearchStrategy[Node]:
    """Scalars that are one number on every tensor."""
    leaf: st.SearchStrategy[Node] = st.sampled_from(NUMBERS).map(number) | st.sampled_from(
        SCALARS
    ).map(name)
    if depth == 0:
        return leaf
    inner = constants(depth - 1)
    return (
        leaf
        | signed(inner)
        | chains(total, inner, "+-")
        | chains(product, inner, "*")
        | _halved(inner)
    )


@cache
def scalars(depth: int = 2, patterns: tuple[str, ...] = PATTERNS) -> st.SearchStrategy[Node]:
    """Scalars, also those that depend on the tensor."""
    if depth == 0:
        return constants(0)
    inner = scalars(depth - 1, patterns)
    ramps = st.lists(constants(1), min_size=2, max_size=4).map(lambda some: call("ramp", *some))
    return (
        constants(depth)
        | ramps
        | signed(inner)
        | chains(total, inner, "+-")
        | chains(product, inner, "*", most=2)
        | _halved(inner)
        | selects(inner, patterns)
    )


def _halved(operand: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    divisor = st.sampled_from(DIVISORS).map(number)
    return st.builds(lambda node, by: product((node, by), "/"), operand, divisor)


@cache
def sums(
    depth: int = 3,
    leaves: tuple[str, ...] = LEAVES,
    patterns: tuple[str, ...] = PATTERNS,
) -> st.SearchStrategy[Node]:
    """Checkpoint values of any kind."""
    leaf: st.SearchStrategy[Node] = st.sampled_from(leaves).map(name)
    if depth == 0:
        return leaf
    inner = sums(depth - 1, leaves, patterns)
    factor = scalars(min(depth - 1, 2), patterns)
    return (
        leaf
        | signed(inner)
        | chains(total, inner, "+-", most=4)
        | st.builds(lambda x, y: product((x, y), "*"), factor, inner)
        | st.builds(lambda x, y: product((y, x), "*"), factor, inner)
        | _halved(inner)
        | selects(inner, patterns)
        | st.builds(lambda a, b, t: call("lerp", a, b, t), inner, inner, factor)
        | st.lists(inner, min_size=1, max_size=3).map(lambda some: call("mean", *some))
        | st.builds(lambda a, b, c: call("analogy", a, b, c), inner, inner, inner)
        | st.builds(lambda node: total((number("0"), node), "+"), inner)
    )


@cache
def plain_sums(depth: int = 2, leaves: tuple[str, ...] = LEAVES) -> st.SearchStrategy[Node]:
    """Checkpoint values whose coefficients are numbers."""
    leaf: st.SearchStrategy[Node] = st.sampled_from(leaves).map(name)
    if depth == 0:
        return leaf
    inner = plain_sums(depth - 1, leaves)
    return (
        leaf
        | signed(inner)
        | chains(total, inner, "+-", most=4)
        | st.builds(lambda x, y: product((x, y), "*"), constants(1), inner)
        | _halved(inner)
        | st.lists(inner, min_size=1, max_size=3).map(lambda some: call("mean", *some))
    )


@st.composite
def recipes(draw: st.DrawFn) -> tuple[list[str], Node]:
    """Lines of bindings and functions, and an expression that uses them."""
    lines = []
    leaves = list(LEAVES)
    calls: list[Callable[[Node, Node], Node]] = []
    for index in range(draw(st.integers(0, 3))):
        if draw(st.booleans()):
            value = draw(sums(2, tuple(leaves)))
            lines.append(f"v{index} = {draw(written(value))}")
            leaves.append(f"v{index}")
        else:
            inside = draw(sums(1, ("t", *leaves)))
            body = total(
                (inside, product((name("s"), name("t")), "*")), draw(st.sampled_from("+-"))
            )
            lines.append(f"f{index}(t, s) = {draw(written(body))}")
            calls.append(lambda t, s, called=f"f{index}": call(called, t, s))  # type: ignore[misc]
    expression = draw(sums(2, tuple(leaves)))
    for make in calls:
        expression = total((expression, make(draw(sums(1, tuple(leaves))), draw(scalars(1)))), "+")
    return lines, expression


# ---- Text


@st.composite
def written(draw: st.DrawFn, node: Node) -> str:
    """Write a tree as a person might: spaces, quotes and needless brackets as they come."""
    return _write(node, random.Random(draw(st.integers(0, 2**32 - 1))), 0)


def plainly(node: Node) -> str:
    """Write a tree with no more brackets than it needs."""
    return _write(node, None, 0)


def fully(node: Node) -> str:
    """Write a tree with brackets around every operator."""
    match node:
        case nodes.Number() | nodes.Name():
            return plainly(node)
        case nodes.Signed():
            return f"({node.operator}{fully(node.operand)})"
        case nodes.Sum() | nodes.Product():
            parts = [fully(node.operands[0])]
            for sign, operand in zip(node.operators, node.operands[1:], strict=True):
                parts.append(f" {sign} {fully(operand)}")
            return f"({''.join(parts)})"
        case nodes.Select():
            inside = ", ".join(_item(item, None) for item in node.items)
            return f"({fully(node.operand)}[{inside}])"
        case nodes.Call():
            return f"{node.function}({', '.join(_argument(a, fully) for a in node.arguments)})"


def _argument(argument: nodes.Argument, write: Callable[[Node], str]) -> str:
    if isinstance(argument.value, nodes.String):
        return f'"{argument.value.text}"'
    text = write(argument.value)
    return text if argument.keyword is None else f"{argument.keyword}={text}"


def _write(node: Node, rng: random.Random | None, level: int) -> str:
    """Write; `level`: 0 anywhere, 1 a sum's operand, 2 a product's or a sign's, 3 a selector's."""

    def space() -> str:
        return rng.choice(["", " ", "  ", "\t"]) if rng else " "

    def inner(child: Node, at: int) -> str:
        return _write(child, rng, at)

    match node:
        case nodes.Number():
            text, mine = node.text, 4
        case nodes.Name():
            text, mine = node.name, 4
        case nodes.Signed():
            text, mine = node.operator + inner(node.operand, 2), 2
        case nodes.Sum() | nodes.Product():
            mine = 0 if isinstance(node, nodes.Sum) else 1
            text = inner(node.operands[0], mine + 1)
            for sign, operand in zip(node.operators, node.operands[1:], strict=True):
                text += f"{space()}{sign}{space()}{inner(operand, mine + 1)}"
        case nodes.Select():
            inside = f",{space()}".join(_item(item, rng) for item in node.items)
            text, mine = f"{inner(node.operand, 3)}[{inside}]", 3
        case nodes.Call():
            separator = f",{space()}"
            arguments = [_argument(a, lambda child: inner(child, 0)) for a in node.arguments]
            text, mine = f"{node.function}({separator.join(arguments)})", 4
    needless = rng is not None and rng.random() < 0.1
    return f"({text})" if mine < level or needless else text


def _item(item: nodes.Pattern | nodes.Layers, rng: random.Random | None) -> str:
    mark = "~" if item.excluded else ""
    if isinstance(item, nodes.Pattern):
        quote = rng.choice("\"'") if rng else '"'
        return f"{mark}{quote}{item.text}{quote}"
    if item.single:
        return f"{mark}{item.start}"
    start, stop = ("" if bound is None else str(bound) for bound in (item.start, item.stop))
    return f"{mark}{start}:{stop}"


# ---- Checkpoints

DTYPES = tuple(FORMATS)
SHAPES = ((), (1,), (3,), (2, 5), (0, 4), (17,))
NAMES = ("emb.p", "layers.0.q", "layers.1.mlp.a", "layers.2.mlp.b", "head")


def random_data(rng: random.Random, dtype: str, count: int, style: str) -> bytes:
    """Return elements: any bits, small weights, or a mixture with every special value."""
    form = FORMATS[dtype]
    special = [0, form.sign, 1, form.sign | 1, form.first_special, form.first_special - 1, form.nan]
    special += [1 << form.fraction_bits, (1 << form.fraction_bits) - 1]
    middle = (form.first_special >> form.fraction_bits) // 2 << form.fraction_bits
    patterns = []
    for _ in range(count):
        if style == "any" or (style == "mixed" and rng.random() < 0.3):
            patterns.append(rng.getrandbits(8 * form.width))
        elif style == "mixed" and rng.random() < 0.4:
            patterns.append(rng.choice(special))
        else:  # about one, and some binades below
            below = rng.randrange(min(6, middle >> form.fraction_bits)) << form.fraction_bits
            fraction = rng.getrandbits(form.fraction_bits)
            patterns.append((middle - below) | fraction | (form.sign if rng.random() < 0.5 else 0))
    return b"".join(pattern.to_bytes(form.width, "little") for pattern in patterns)


def random_checkpoint(
    rng: random.Random, shapes: Mapping[str, tuple[int, ...]], dtypes: Sequence[str], style: str
) -> Tensors:
    """Return a checkpoint: the given names and shapes, dtypes as they come, order as it comes."""
    order = list(shapes)
    rng.shuffle(order)
    found = {}
    for tensor in order:
        dtype, count = rng.choice(dtypes), 1
        for size in shapes[tensor]:
            count *= size
        found[tensor] = Tensor(dtype, shapes[tensor], random_data(rng, dtype, count, style))
    return found


@st.composite
def families(draw: st.DrawFn, keys: Sequence[str] = ("base", "a", "b", "ft")) -> dict[str, Tensors]:
    """Return checkpoints that fit together: equal names and shapes, mixed dtypes."""
    rng = random.Random(draw(st.integers(0, 2**32 - 1)))
    shapes = {tensor: rng.choice(SHAPES) for tensor in NAMES}
    style = draw(st.sampled_from(["small", "mixed", "any"]))
    alike = draw(st.booleans())
    dtypes = [rng.choice(DTYPES)] if alike else DTYPES
    return {key: random_checkpoint(rng, shapes, dtypes, style) for key in keys}
