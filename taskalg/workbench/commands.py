"""The table of colon commands: one row each. From it come dispatch, `:help` and completion.

To add a command, write a function that takes the workspace and its line, and add a row.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

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

    @property
    def options(self) -> tuple[str, ...]:
        """Words that start with two dashes."""
        return tuple(re.findall(r"--[a-z-]+", self.usage))


COMMANDS = (
    Command(
        "load",
        ":load [--task] NAME PATH, :load RECIPE",
        "Bind a checkpoint, with --task its difference to base, or all names of a recipe file.",
        ":load --task toxic gpt2-toxic/",
        making.load,
        ("paths",),
    ),
    Command("models", ":models", "List the checkpoints.", ":models", looking.models),
    Command(
        "let",
        ":let [NAME = EXPR]",
        "Bind a scalar or an expression, as NAME = EXPR does; alone, list what is bound.",
        ":let strength = 0.4",
        looking.let,
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
        "Prove that two expressions are equal, or show where they differ.",
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
        "Measure the cosine between two vectors; of more, or of all task vectors, a table.",
        ":cos toxic, math",
        vectors.cos,
        ("expressions",),
    ),
    Command(
        "top",
        ":top [EXPR] [N]",
        "List the layers and the tensors in which a vector is longest.",
        ":top toxic 5",
        vectors.top,
        ("expressions",),
    ),
    Command(
        "diff",
        ":diff EXPR, EXPR [N]",
        "List the layers and the tensors in which two differ most.",
        ":diff base, fix",
        vectors.diff,
        ("expressions",),
    ),
    Command(
        "plot",
        ":plot cosines|norms|sweep FILE [EXPR, EXPR, ...]",
        "Draw the cosines of vectors, their norms by layer, or the last sweep.",
        ":plot cosines cosines.png",
        vectors.plot,
        ("pictures", "paths", "expressions"),
    ),
    Command(
        "save",
        ":save FILE [EXPR] [--overwrite]",
        "Write a recipe file: what the expression needs, and the expression.",
        ":save detox.ta base - 0.4*toxic",
        making.save,
        ("paths", "expressions"),
    ),
    Command(
        "merge",
        ":merge EXPR OUT [--overwrite]",
        "Evaluate and publish a checkpoint, all of it or nothing.",
        ":merge base - 0.4*toxic detoxed/",
        making.merge,
        ("expressions", "paths"),
    ),
    Command(
        "sweep",
        ":sweep [EXPR] --set NAME=FROM:TO:STEP --score CMD [--maximize SCORE] [--minimize SCORE] "
        "[--subject-to CONDITION] [--csv FILE] [--restart] [--verbose]",
        "Score the expression at every value of its scalars, and choose one.",
        ':sweep base - s*toxic --set s=0:1:0.1 --score "python score.py {model}" --maximize score',
        trying.sweep,
        ("expressions", "paths"),
    ),
    Command("history", ":history [N]", "List the last inputs.", ":history 5", looking.history),
    Command(
        "help",
        ":help [COMMAND or FUNCTION]",
        "Say how a command or a function is used; alone, list the commands.",
        ":help merge",
        lambda workspace, line: _help(line),
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


def run_command(workspace: Workspace, source: Source) -> Answer:
    """Run the command in a line.

    Raises:
        UsageError: there is no such command, or it is written another way.
        TaskalgError: whatever the command finds.
    """
    colon = source.text.index(":")
    name, start = _name(source.text[colon + 1 :]), colon + 1
    end = start + len(name)
    command = _BY_NAME.get(name)
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


def _help(line: Line) -> Answer:
    if line.is_empty:
        return Answer(_overview())
    topic, _ = line.first("command")
    name = topic.removeprefix(":")
    if name in _BY_NAME:
        found = _BY_NAME[name]
        return Answer("\n".join([found.usage, f"  {found.doc}", "", f"  {found.example}"]))
    for operator in OPERATORS:
        if topic == operator.name:
            return Answer(
                "\n".join([operator.usage, f"  {operator.doc}", "", f"  {operator.example}"])
            )
    known = [*_BY_NAME, *(operator.name for operator in OPERATORS)]
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"there is no command and no function {quoted(topic)}", help=f"{guess}:help lists them"
    )


def _overview() -> str:
    functions = ", ".join(one.name for one in OPERATORS if one.parameters)
    rows = [(f":{command.name}", command.doc) for command in COMMANDS]
    return "\n".join([*_FIRST_STEPS, "", *columns(rows), "", f"functions: {functions}", _MORE])


_FIRST_STEPS = (
    "bind checkpoints       :load base gpt2/           :load --task toxic gpt2-toxic/",
    "write an expression    base - 0.4*toxic           it says what it is; nothing is evaluated",
    "give it a name         fix = base - 0.4*toxic     a new value replaces the old one",
    "keep it                :save fix.ta fix           a recipe file, for taskalg merge -f fix.ta",
    "evaluate it            :merge fix fixed/          a checkpoint",
)
_MORE = ":help merge says more about a command, :help lerp about a function"
