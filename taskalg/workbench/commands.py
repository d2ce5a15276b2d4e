"""The table of colon commands: one row each. From it come dispatch, `:help` and completion.

To add a command, write a function that takes the workspace and its line, and add a row.
"""

import difflib
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from taskalg.algebra.operators import OPERATORS
from taskalg.errors import Source, UsageError, quoted
from taskalg.listing import columns
from taskalg.workbench import looking, making, trying, vectors
from taskalg.workbench.answer import Answer
from taskalg.workbench.line import Line, pointing_into
from taskalg.workbench.workspace import Workspace

Run = Callable[[Workspace, Line], Answer]


@dataclass(frozen=True)
class Command:
    """One row."""

    name: str  # without the colon
    usage: str  # how it is written
    doc: str  # one sentence
    example: str
    run: Run
    takes: tuple[str, ...] = ()  # what completes its words: "expressions", "paths", "topics"
    more: str = ""  # another sentence or two, for whoever asks about this one

    @property
    def options(self) -> tuple[str, ...]:
        """Words that start with two dashes."""
        return tuple(re.findall(r"--[a-z-]+", self.usage))


COMMANDS = (
    Command(
        "load",
        ":load [--task] NAME PATH, :load RECIPE",
        "Bind a checkpoint, or the names of a recipe.",
        ":load --task toxic gpt2-toxic/",
        making.load,
        ("paths",),
        more="With --task the name stands for the checkpoint minus base.",
    ),
    Command(
        "models",
        ":models",
        "List the checkpoints.",
        ":models",
        looking.models,
    ),
    Command(
        "let",
        ":let [NAME = EXPR]",
        "Bind a name; alone, list what is bound.",
        ":let strength = 0.4",
        looking.let,
        ("expressions",),
        more="NAME = EXPR without :let does the same.",
    ),
    Command(
        "forget",
        ":forget NAME",
        "Unbind a name that nothing depends on.",
        ":forget strength",
        looking.forget,
        ("expressions",),
    ),
    Command(
        "explain",
        ":explain [EXPR]",
        "Say what :merge would read, write and decide.",
        ":explain base - 0.4*toxic",
        looking.explain,
        ("expressions",),
    ),
    Command(
        "equal",
        ":equal EXPR, EXPR",
        "Prove two equal, or show where they differ.",
        ":equal base + (ft - base), ft",
        looking.equal,
        ("expressions",),
    ),
    Command(
        "norm",
        ":norm [EXPR]",
        "Measure how long a vector is.",
        ":norm toxic",
        vectors.norm,
        ("expressions",),
    ),
    Command(
        "cos",
        ":cos [EXPR, EXPR, ...]",
        "Measure the cosine between vectors.",
        ":cos toxic, math",
        vectors.cos,
        ("expressions",),
        more="Of more than two, or of all task vectors when none is named, a table.",
    ),
    Command(
        "top",
        ":top [EXPR] [N]",
        "Rank layers and tensors by a vector's length.",
        ":top toxic 5",
        vectors.top,
        ("expressions",),
    ),
    Command(
        "diff",
        ":diff EXPR, EXPR [N] [--by tensor|module|layer]",
        "Rank what differs most between two.",
        ":diff base, fix --by layer",
        vectors.diff,
        ("expressions",),
    ),
    Command(
        "plot",
        ":plot cosines|norms|sweep FILE [EXPR, EXPR, ...]",
        "Draw cosines, norms by layer, or a sweep.",
        ":plot cosines cosines.png",
        vectors.plot,
        ("pictures", "paths", "expressions"),
        more="Of all task vectors, when none is named; of the last sweep.",
    ),
    Command(
        "save",
        ":save FILE [EXPR] [--overwrite]",
        "Write a recipe file with all that EXPR needs.",
        ":save detox.ta base - 0.4*toxic",
        making.save,
        ("paths", "expressions"),
    ),
    Command(
        "merge",
        ":merge EXPR OUT [--overwrite]",
        "Evaluate, and publish a checkpoint.",
        ":merge base - 0.4*toxic detoxed/",
        making.merge,
        ("expressions", "paths"),
        more="All of it is published, or nothing.",
    ),
    Command(
        "sweep",
        ":sweep [EXPR] --set NAME=FROM:TO:STEP --score CMD [--maximize SCORE] [--minimize SCORE] "
        "[--subject-to CONDITION] [--csv FILE] [--restart] [--verbose]",
        "Score EXPR at every value of its scalars.",
        ':sweep base - s*toxic --set s=0:1:0.1 --score "python score.py {model}"',
        trying.sweep,
        ("expressions", "paths"),
        more="CMD prints scores of {model}; what is maximized or minimized chooses a point.",
    ),
    Command(
        "history",
        ":history [N]",
        "List the last inputs.",
        ":history 5",
        looking.history,
    ),
    Command(
        "help",
        ":help [COMMAND or FUNCTION]",
        "Say how it is used; alone, list all.",
        ":help merge",
        lambda workspace, line: _help(line, min(workspace.columns(), _COLUMNS)),
        ("topics",),
    ),
    Command(
        "quit",
        ":quit",
        "Leave; Ctrl-D does, too.",
        ":quit",
        lambda workspace, line: Answer("", leaves=True),
    ),
)
_BY_NAME = {command.name: command for command in COMMANDS}
_MEANT = {"q": "quit", "exit": "quit"}  # by what is typed out of habit
_COLUMNS = 79  # of a help text at most
_SHAPE = 29  # of these, for how a command is written


def run_command(workspace: Workspace, source: Source) -> Answer:
    """Run the command in a line.

    Raises:
        UsageError: there is no such command, or it is written another way.
        TaskalgError: whatever the command finds.
    """
    colon = source.text.index(":")
    name, start = _name(source.text[colon + 1 :]), colon + 1
    end = start + len(name)
    command = _BY_NAME.get(_MEANT.get(name, name))
    if command is None:
        raise _unknown(f":{name}")
    line = Line(source, " " * end + source.text[end:], command.usage)
    with pointing_into(source):
        return command.run(workspace, line)


def _name(text: str) -> str:
    return text.split(maxsplit=1)[0] if text[:1].strip() else ""


def _unknown(name: str) -> UsageError:
    near = difflib.get_close_matches(name, [f":{known}" for known in _BY_NAME], n=1, cutoff=0.5)
    guess = f"did you mean {near[0]}? " if near else ""
    return UsageError(f"there is no command {quoted(name)}", help=f"{guess}:help lists them")


def _help(line: Line, width: int) -> Answer:
    if line.is_empty:
        return Answer(_overview(width))
    topic, _ = line.first("command")
    name = topic.removeprefix(":")
    found = [one for one in COMMANDS if one.name == name]
    functions = [one for one in OPERATORS if one.name == topic]
    if not found and not functions:
        known = [*_BY_NAME, *(operator.name for operator in OPERATORS)]
        near = difflib.get_close_matches(name, known, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"there is no command and no function {quoted(topic)}", help=f"{guess}:help lists them"
        )
    texts = [
        *(_told(one.usage, f"{one.doc} {one.more}", one.example, width) for one in found),
        *(_told(one.usage, one.doc, one.example, width) for one in functions),
    ]
    return Answer("\n\n".join(texts))


def _told(usage: str, about: str, example: str, width: int) -> str:
    """Say how a command or a function is written, what it does, and an example."""
    lines = textwrap.wrap(usage, width, subsequent_indent=" " * 7, break_on_hyphens=False)
    lines += textwrap.wrap(about, width, initial_indent="  ", subsequent_indent="  ")
    return "\n".join([*lines, "", f"  {example}"])


def _overview(width: int) -> str:
    functions = ", ".join(one.name for one in OPERATORS if one.parameters)
    shapes = [textwrap.shorten(one.usage, _SHAPE, placeholder=" ...") for one in COMMANDS]
    rows = [(shape, one.doc) for shape, one in zip(shapes, COMMANDS, strict=True)]
    ends = [textwrap.fill(one, width) for one in (f"functions: {functions}", _MORE)]
    return "\n".join([*_fitting(_FIRST_STEPS, width), "", *_fitting(rows, width), "", *ends])


def _fitting(rows: Sequence[tuple[str, ...]], width: int) -> list[str]:
    """Align rows in columns; where they do not fit, write their cells below each other."""
    lines = columns(rows)
    if max(map(len, lines)) <= width:
        return lines
    below = partial(textwrap.wrap, width=width, initial_indent="  ", subsequent_indent="    ")
    return [line for first, *cells in rows for line in (first, *chain(*map(below, cells)))]


_FIRST_STEPS = (
    ("bind checkpoints", ":load base gpt2/", ":load --task toxic gpt2-toxic/"),
    ("write an expression", "base - 0.4*toxic", "described, not evaluated"),
    ("give it a name", "fix = base - 0.4*toxic", "a new value replaces the old one"),
    ("keep it", ":save fix.ta fix", "for taskalg merge -f fix.ta"),
    ("evaluate it", ":merge fix fixed/", "a checkpoint"),
)
_MORE = ":help merge says more about a command, :help lerp about a function"
