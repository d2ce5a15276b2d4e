"""The table: one row per operator.

From a row come the checks of a call's arguments and their messages, `taskalg ops`, and the table in
the language reference. To add an operator, add a row; new punctuation also needs a line in
`grammar/taskalg.lark`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from taskalg.algebra.coefficient import Coefficient, ramped
from taskalg.algebra.measured import measure
from taskalg.algebra.selectors import Ramp
from taskalg.algebra.weighted_sum import Value, WeightedSum
from taskalg.errors import ExpressionError, KindError

Rule = Callable[[Sequence[Value]], Value]


@dataclass(frozen=True)
class Operator:
    """One row."""

    name: str  # what is written: "+", "lerp"
    usage: str  # how it is written: "lerp(a, b, t)"
    doc: str  # one sentence
    example: str  # an expression in base, a, b, c (models) and toxic (a task vector)
    parameters: tuple[str, ...] = ()  # names of a function's arguments; () for punctuation
    keywords: tuple[str, ...] = ()  # arguments that are given by name or not at all
    variadic: bool = False  # more arguments may follow the named ones
    rule: Rule | None = None  # None: punctuation and file functions, which the evaluator does


def add(a: Value, b: Value) -> Value:
    """Add two scalars or two checkpoint values; the scalar 0 may be added to anything.

    Raises:
        KindError: one is a scalar and the other is not.
    """
    return add_all([a, b])


def add_all(values: Sequence[Value]) -> Value:
    """Add any number of values in one pass, with the rule of `add`."""
    sums = [value for value in values if isinstance(value, WeightedSum)]
    scalars = [value for value in values if isinstance(value, Coefficient)]
    if not sums:
        return sum(scalars, Coefficient())
    wrong = next((scalar for scalar in scalars if scalar), None)
    if wrong is not None:
        raise KindError(
            "'+' and '-' need two scalars or two checkpoint values",
            note=f"found a checkpoint value and {scalar_text(wrong)}",
            help="multiply to scale: 0.4*toxic",
        )
    return WeightedSum.adding(sums)


def multiply(a: Value, b: Value) -> Value:
    """Multiply; one of the two must be a scalar.

    Raises:
        KindError: both are checkpoint values.
    """
    if isinstance(a, Coefficient):
        return a * b if isinstance(b, Coefficient) else b.scaled(a)
    if isinstance(b, Coefficient):
        return a.scaled(b)
    raise KindError(
        "'*' needs a scalar on at least one side",
        note="found two checkpoint values: their product is not linear",
    )


def divide(a: Value, b: Value) -> Value:
    """Divide by a scalar that is not zero and does not depend on the tensor.

    Raises:
        KindError: the divisor is a checkpoint value.
        ExpressionError: it is zero, or depends on the tensor.
    """
    if not isinstance(b, Coefficient):
        raise KindError("'/' needs a scalar on the right", note="found a checkpoint value")
    return multiply(a, b.reciprocal())


def negate(a: Value) -> Value:
    """Change the sign."""
    return multiply(Coefficient(-1), a)


def scalar_text(value: Coefficient) -> str:
    """Say what a scalar is, for a message."""
    return "a scalar that depends on the tensor" if value.varies else f"the scalar {value.number}"


def _bend(value: Value) -> Coefficient:
    if not isinstance(value, Coefficient):
        raise KindError("an argument of ramp must be a scalar", note="found a checkpoint value")
    if value.varies:
        raise ExpressionError("an argument of ramp must not depend on the tensor")
    return value


def _lerp(values: Sequence[Value]) -> Value:
    a, b, t = values
    if not isinstance(t, Coefficient):
        raise KindError("t must be a scalar", note="found a checkpoint value")
    return add(multiply(Coefficient(1) - t, a), multiply(t, b))


def _mean(values: Sequence[Value]) -> Value:
    return multiply(Coefficient(Fraction(1, len(values))), add_all(values))


def _analogy(values: Sequence[Value]) -> Value:
    a, b, c = values
    return add_all([c, b, negate(a)])


def _ramp(values: Sequence[Value]) -> Value:
    bends = [_bend(value) for value in values]
    numbers = [bend.constant for bend in bends]
    if None not in numbers:
        return ramped(Ramp(tuple(number for number in numbers if number is not None)))
    parts = [bend * ramped(_unit(index, len(bends))) for index, bend in enumerate(bends)]
    return sum(parts, Coefficient())


def _unit(index: int, count: int) -> Ramp:
    """Return the ramp that is 1 at one of its values: all ramps are sums of such."""
    return Ramp(tuple(Fraction(place == index) for place in range(count)))


def _norm(values: Sequence[Value]) -> Value:
    return measure("norm", values)


def _dot(values: Sequence[Value]) -> Value:
    return measure("dot", values)


def _cos(values: Sequence[Value]) -> Value:
    return measure("cos", values)


OPERATORS = (
    Operator("+", "a + b", "Adds two scalars or two checkpoint values.", "base + toxic"),
    Operator("-", "a - b, -a", "Subtracts, or changes the sign.", "base - 0.4*toxic"),
    Operator("*", "a * b", "Scales; one side is a scalar.", "base + 0.4*toxic"),
    Operator("/", "a / b", "Divides by a scalar that is not zero.", "(a + b)/2"),
    Operator(
        "[]",
        'a["*.mlp.*", 0:16, ~"*.bias"]',
        "Keeps a on the selected tensors and is zero elsewhere.",
        'base + 0.4*toxic["*.weight"]',
    ),
    Operator(
        "lerp",
        "lerp(a, b, t)",
        "Moves from a (t = 0) to b (t = 1): (1 - t)*a + t*b.",
        "lerp(a, b, 0.25)",
        ("a", "b", "t"),
        rule=_lerp,
    ),
    Operator(
        "mean",
        "mean(a, b, …)",
        "Averages: a model soup (Wortsman et al. 2022, arXiv 2203.05482).",
        "mean(a, b, c)",
        ("a",),
        variadic=True,
        rule=_mean,
    ),
    Operator(
        "analogy",
        "analogy(a, b, c)",
        "a is to b as c is to the result: c + (b - a) (Ilharco et al. 2022, arXiv 2212.04089).",
        "analogy(a, b, c)",
        ("a", "b", "c"),
        rule=_analogy,
    ),
    Operator(
        "ramp",
        "ramp(a, b, …)",
        "A scalar that goes with depth from a at the first layer to the last value at the last.",
        "base + ramp(0.2, 1)*toxic",
        ("a", "b"),
        variadic=True,
        rule=_ramp,
    ),
    Operator(
        "norm",
        "norm(x)",
        "A measured scalar: the length of x, sqrt(dot(x, x)).",
        "base + toxic/norm(toxic)*norm(b - a)",
        ("x",),
        rule=_norm,
    ),
    Operator(
        "dot",
        "dot(x, y)",
        "A measured scalar: the inner product, x*y summed over all elements of floating tensors. "
        "x - dot(x, y)/dot(y, y)*y is the part of x that is orthogonal to y.",
        "base + toxic - dot(toxic, b - a)/dot(b - a, b - a)*(b - a)",
        ("x", "y"),
        rule=_dot,
    ),
    Operator(
        "cos",
        "cos(x, y)",
        "A measured scalar: the cosine of the angle between them, dot(x, y)/(norm(x)*norm(y)).",
        "base + (1 - cos(toxic, b - a))*toxic",
        ("x", "y"),
        rule=_cos,
    ),
    Operator(
        "checkpoint",
        'checkpoint("path"), checkpoint("path", strip_prefix="model.")',
        "The checkpoint in a file or folder; a task vector when the file is one. strip_prefix is "
        "dropped from the names of its tensors.",
        'checkpoint("base")',
        ("path",),
        ("strip_prefix",),
    ),
    Operator(
        "task",
        'task("path"), task("path", base)',
        "The task vector checkpoint(path) - base; a file that is a vector is taken as it is.",
        'base + task("ft")',
        ("path", "base"),
        ("strip_prefix",),
    ),
)
FUNCTIONS = {operator.name: operator for operator in OPERATORS if operator.parameters}

# Not linear: more than one weighted sum per tensor. Their names answer what they are.
NOT_LINEAR = {
    "ties": "trims, elects signs and merges (Yadav et al. 2023, arXiv 2306.01708)",
    "dare": "drops entries at random and rescales (Yu et al. 2023, arXiv 2311.03099)",
    "della": "drops entries by rank (Deep et al. 2024, arXiv 2406.11617)",
    "breadcrumbs": "drops the largest and smallest entries (Davari & Belilovsky 2023, "
    "arXiv 2312.06795)",
    "slerp": "interpolates along a great circle",
    "nuslerp": "interpolates along a great circle, with weights for both ends",
    "multislerp": "averages directions on a sphere",
    "karcher": "averages directions on a sphere, iterated",
    "model_stock": "weighs by the angle between fine-tuned models (Jang et al. 2024, "
    "arXiv 2403.19522)",
    "sce": "selects by variance, then weighs and elects signs (Wan et al. 2024, arXiv 2408.07990)",
    "nearswap": "moves entries only where two models are close",
    "arcee_fusion": "keeps the entries that changed most",
    "magmax": "keeps the entry that changed most (Marczak et al. 2024, arXiv 2407.06322)",
    "fisher": "weighs by Fisher information (Matena & Raffel 2021, arXiv 2111.09832)",
    "regmean": "solves a regression for each layer (Jin et al. 2022, arXiv 2212.09849)",
}
NOT_LINEAR |= {
    "dare_ties": NOT_LINEAR["dare"],
    "dare_linear": NOT_LINEAR["dare"],
    "della_linear": NOT_LINEAR["della"],
    "breadcrumbs_ties": NOT_LINEAR["breadcrumbs"],
}
BUILTINS = frozenset(FUNCTIONS) | frozenset(NOT_LINEAR)
