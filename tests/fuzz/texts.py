"""Mutants of expressions and recipes: text in, text out that is still mostly of the language."""

import random
import re

_TOKEN = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'|#[^\n]*|\w+(?:\.\w*)?|\s+|.", re.DOTALL)

NAMES = ["base", "a", "b", "toxic", "math", "λ", "ﬁne", "strength", "x", "f", "g", "use", "mean"]
MEASURES = ["norm", "dot", "cos"]
NUMBERS = ["0", "1", "2", "0.4", ".5", "3.", "1e-3", "1_000", "1e5", "1e999", "1e-2400"]
CALLED = ["lerp", "mean", "analogy", "ramp", "f", "g", *MEASURES]
PATHS = [
    "m.safetensors",
    "v.safetensors",
    "zoo.ta",
    "loop.ta",
    "broken.ta",
    "nowhere",
    "",
    'say "x"',
]
PATTERNS = ["*", "*.mlp.*", "?.q", "[!p]*", "[", "*.w", "head", ""]
BOUNDS = ["", "0", "1", "-1", "16", "-2", "999999999", "1.5", "1e9"]
ODD = ["\x00", "\u202e", "−", "“", "\ufeff", "\r\n", "\t", "\udc80", "𝟙", "²", "a\u0301", "漢", "!"]
ODD += ["'", '"', "**", "//", "%", "@", "=", "==", "1_", "0x1", "1e", "..", "{", "#", "\\", ";"]
SIGNS = ["+", "-", "*", "/", "(", ")", "[", "]", ",", ":", "~", "\n", " + ", " - "]
FUNCTIONS = ["f(t, s) = -s*t", "g(t) = f(t, 2) + t[0]"]
LINES = [
    "x = 0.4",
    "x = a - base",
    'x = checkpoint("m.safetensors")',
    'math = task("m.safetensors")',
    'toxic = task("v.safetensors", base)',
    "h(t) = t",
    'use "zoo.ta"',
    'use "loop.ta"',
    "# a comment",
    "",
]
SEEDS = [
    "base + 0.4*-toxic + 0.3*(a - b + math)",
    "lerp(base, a, 1/3)[0:16, ~'*.bias'] + ramp(0, 1)*toxic",
    'analogy(a, b, base) - mean(a, b, x["*.mlp.*"], 2*a - b)/4',
    'base = checkpoint("m.safetensors")\nv = task("v.safetensors", base)\nbase + 0.5*v',
    'use "zoo.ta"\nforget(t, s) = -s*t  # one line\nbase + forget(zoo, 0.4)\n',
    'v = norm(toxic["*.q"])\nbase + toxic/v*norm(x[0:2] - dot(x, a)/dot(a, a)*a) - v*(a - a)',
    "(1 - ramp(0, 0.5, 1))*a + ramp(0, 0.5, 1)*b[:, ~3]",
]


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Change a text by tokens, by whole operands, or by lines."""
    text = content.decode("utf-8", "surrogateescape")
    if len(text) < 2 or rng.random() < 0.3:
        text = rng.choice(SEEDS) if rng.random() < 0.3 else recipe(rng)
        if rng.random() < 0.3:
            return text.encode("utf-8", "surrogateescape")
    tokens = _TOKEN.findall(text)
    for _ in range(rng.choice([1, 1, 2, 3])):
        rng.choice(CHANGES)(tokens, rng)
    return "".join(tokens)[:400].encode("utf-8", "surrogateescape")


def recipe(rng: random.Random) -> str:
    """Make up a text."""
    lines = FUNCTIONS[: rng.choice([0, 2, 2])] + rng.sample(LINES, rng.choice([0, 0, 1, 2, 4]))
    return "\n".join([*lines, f"({expression(rng, rng.choice([1, 2, 3, 4]))})"])


def expression(rng: random.Random, depth: int) -> str:
    """Make up an operand."""
    kind = rng.randrange(8) if depth else 0

    def inner() -> str:
        return expression(rng, depth - 1)

    match kind:
        case 1:
            return f"({inner()} {rng.choice('+-')} {inner()})"
        case 2:
            return f"{rng.choice(NUMBERS[:9])}*{inner()}"
        case 3:
            return f"{inner()}[{', '.join(_item(rng) for _ in range(rng.choice([1, 1, 2])))}]"
        case 4:
            arguments = ", ".join(inner() for _ in range(rng.choice([1, 2, 3, 3])))
            return f"{rng.choice(CALLED)}({arguments})"
        case 5:
            quoted = _string(rng.choice(PATHS if rng.random() < 0.1 else PATHS[:2]))
            return rng.choice([f"checkpoint({quoted})", f"task({quoted}, base={inner()})"])
        case 6:
            return f"{rng.choice('+-')}{inner()}"
        case 7:
            return f"ramp({rng.choice(NUMBERS[:6])}, {rng.choice(NUMBERS[:6])})*{inner()}"
    return rng.choice(NAMES[:9]) if rng.random() < 0.85 else rng.choice(NUMBERS)


def _item(rng: random.Random) -> str:
    item = _string(rng.choice(PATTERNS))
    if rng.random() < 0.5:
        bounds = BOUNDS if rng.random() < 0.05 else BOUNDS[:-2]
        item = rng.choice([rng.choice(bounds[1:]), f"{rng.choice(bounds)}:{rng.choice(bounds)}"])
    return "~" * (rng.random() < 0.2) + item


def _string(text: str) -> str:
    return f"'{text}'" if '"' in text else f'"{text}"'


def _at(tokens: list[str], rng: random.Random) -> int:
    return rng.randrange(len(tokens) + 1)


def _operand(tokens: list[str], rng: random.Random) -> tuple[int, int] | None:
    """Find a name, a number or a pair of brackets: where it starts and ends."""
    starts = [i for i, token in enumerate(tokens) if token == "(" or token[0].isalnum()]
    if not starts:
        return None
    start = rng.choice(starts)
    if tokens[start] != "(":
        return start, start + 1
    depth = 0
    for end in range(start, len(tokens)):
        depth += (tokens[end] == "(") - (tokens[end] == ")")
        if depth == 0:
            return start, end + 1
    return None


def _replace(tokens: list[str], rng: random.Random) -> None:
    place = _operand(tokens, rng) or (0, 0)
    tokens[place[0] : place[1]] = _TOKEN.findall(expression(rng, rng.choice([0, 1, 2, 3])))


def _wrap(tokens: list[str], rng: random.Random) -> None:
    place = _operand(tokens, rng)
    if place is not None:
        start, end = place
        inner = "".join(tokens[start:end])
        forms = [f"({inner})", f"-{inner}", f"{inner}[{_item(rng)}]", f"f({inner}, 2)"]
        forms += [f"norm({inner})*a", f"a/dot({inner}, b)", f"cos(a, {inner})*{inner}"]
        forms += [f"mean({inner}, {inner})", f"{inner}/{rng.choice(NUMBERS)}", f"(0*{inner})"]
        forms += ["-" * 210 + inner, "(" * 90 + inner + ")" * 90]
        tokens[start:end] = _TOKEN.findall(rng.choice(forms))


def _copy(tokens: list[str], rng: random.Random) -> None:
    place = _operand(tokens, rng)
    if place is not None:
        part = tokens[place[0] : place[1]]
        at = _at(tokens, rng)
        tokens[at:at] = [rng.choice(SIGNS[:4]), *part]


def _drop(tokens: list[str], rng: random.Random) -> None:
    at = _at(tokens, rng)
    del tokens[at : at + rng.choice([1, 1, 2, 5])]


def _insert(tokens: list[str], rng: random.Random) -> None:
    at = _at(tokens, rng)
    words = rng.choice([SIGNS, SIGNS, NAMES, NUMBERS, ODD])
    tokens[at:at] = [rng.choice(words)]


def _line(tokens: list[str], rng: random.Random) -> None:
    ends = [i for i, token in enumerate(tokens) if "\n" in token]
    at = rng.choice([0, *ends])
    line = rng.choice(LINES)
    if rng.random() < 0.3:
        line = f"{rng.choice(NAMES[:9])} = {expression(rng, 2)}"
    tokens[at:at] = ["\n", *_TOKEN.findall(line), "\n"]


CHANGES = [*[_replace] * 6, *[_wrap] * 3, _copy, _copy, _drop, _insert, _line, _line]
