"""Every example in the documents is run, and says what it prints.

In README.md and those of grammar/ and examples/, the blocks of one document run in order in one
folder, where every path that an example reads is a toy checkpoint (unless "missing" is in its name,
or the demo or an example of the same block makes it):

- ```taskalg: recipes, separated by blank lines. A last line like `# model  base - toxic` is the
  result. A block that starts with `# name.ta` is one recipe, and is saved under that name.
- ```error: a recipe, a blank line, and the message it gives.
- ```sh or ```console: after `$ `, a command; below it what it prints, on both streams, or nothing.
- ```repl: a session: `$ taskalg repl ...`, inputs after `>>> `, and what it answers to all of them.
- ```python: a doctest.

In what is expected, `…` stands for anything in a line, and alone in a line for any lines. In an
"about" block decimals stand for any: what a network learned differs from machine to machine.
"""

import ast
import doctest
import os
import re
import shutil
import sys
import textwrap
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, STDOUT, run

import pytest

from taskalg.algebra.operators import NOT_LINEAR, OPERATORS
from taskalg.api import build, compile
from taskalg.compiler import bind
from taskalg.errors import Source, TaskalgError
from taskalg.language.format import format_text
from taskalg.language.parser import parse
from taskalg.recipe import Recipe
from toy_checkpoints import make

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "grammar" / "README.md"
EXAMPLES = ROOT / "examples"
DOCUMENTS = [ROOT / "README.md", REFERENCE, EXAMPLES / "README.md"]
SCRIPTS = [
    EXAMPLES / f"{name}.py"
    for name in ("toy_checkpoints", "negate", "add", "sweep", "embed", "learn_coefficients")
]
RECIPES = sorted((EXAMPLES / "recipes").glob("*.ta"))
PAPER = [  # these take minutes: tests/test_reproduce.py
    EXAMPLES / f"{name}.py"
    for name in (
        *("forgetting", "addition", "analogies", "language_model", "task_vectors"),
        "reproduce",
    )
]
MODELS = ("base", "a", "b", "c", "ft", "math", "code")  # names that the examples may use
TASKS = ("toxic", "sent_yelp", "lm_yelp", "lm_amazon")
FENCE = re.compile(r"^```(\w+)( about)?[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DECIMAL = re.compile(r"(?<![\w/])-?\d+\\\.\d+")  # in a pattern
RESULT = re.compile(r"# ((?:scalar|model|task vector|partial)  .*)")
SAVED = re.compile(r"# (\S+\.ta)\b")
PATHS = [
    re.compile(r"\b(?:checkpoint|task)\(\s*[\"']([^\"'\n]+)"),
    re.compile(r"--base[ =]([\w./-]+)"),
    re.compile(r"--(?:task|model)[ =]\w+=([\w./-]+)"),
    re.compile(r"taskalg inspect ([\w./-]+)"),
]
RUN = ("taskalg ", "cat ", "ls", "echo ", "printf ")  # not pip, say
needs_shell = pytest.mark.skipif(shutil.which("sh") is None, reason="transcripts need a shell")


# ---- Running examples


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    place: str  # file and line
    language: str
    about: bool  # whether decimals stand for any
    text: str


def blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    return [
        Block(f"{document.name}:{text.count(chr(10), 0, m.start()) + 1}", m[1], bool(m[2]), m[3])
        for m in FENCE.finditer(text)
    ]


def failures(document: Path) -> Iterator[str]:
    """Run every example in the working folder; yield what is wrong."""
    provide("".join(f'checkpoint("{name}")' for name in (*MODELS, *TASKS)))
    for block in blocks(document):
        provide(block.text)
        for example, expected in examples(block):
            got = RUNNERS[block.language](example)
            if not matches(expected, got, about=block.about) or "Traceback" in got:
                yield f"{block.place}: {example}\n--- expected\n{expected}\n--- got\n{got}"


def examples(block: Block) -> list[tuple[str, str]]:
    """Return the examples in a block and what they should give."""
    if block.language == "taskalg":
        stated = [(r, RESULT.fullmatch(r.splitlines()[-1])) for r in recipes(block.text)]
        return [(recipe, found[1] if found else "…") for recipe, found in stated]
    if block.language == "error":
        recipe, _, message = block.text.partition("\n\n")
        return [(recipe, message)]
    if block.language in ("sh", "console"):
        return commands(block.text)
    if block.language == "repl":
        return [(block.text, re.sub(r"^(\$|>>>) .*\n", "", block.text, flags=re.MULTILINE))]
    return [(block.text, "")] if block.language in RUNNERS else []


def recipes(text: str) -> list[str]:
    saved = SAVED.match(text)
    if saved is None:
        return [part for part in re.split(r"\n\s*\n", text.strip("\n")) if part]
    Path(saved[1]).write_text(text, encoding="utf-8")
    return [text.strip("\n")]


def result(text: str) -> str:
    """Return the kind and the sum of a recipe, or its error."""
    try:
        recipe = compiled(text)
        if recipe.kind != "scalar":
            recipe.plan(allow_partial=bool(RESULT.match(text.splitlines()[-1])))
        return repr(recipe)
    except TaskalgError as error:
        return str(error)


def compiled(text: str) -> Recipe:
    """Compile a recipe; one without an expression is asked for its `base`."""
    source = Source("<expr>", text, ".")
    names = bind("base", {n: n for n in TASKS}, {n: n for n in MODELS[1:]})
    try:
        last = None if parse(source).expression else Source("<base>", "base")
    except TaskalgError:
        last = None
    return build(last, source, names)


def commands(text: str) -> list[tuple[str, str]]:
    """Return the commands of a transcript that can be run, and what they print."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    found = [re.match(r"((?:[^\n]*\\\n)*[^\n]*)\n?(.*)", part, re.DOTALL) for part in parts]
    return [(m[1], m[2].strip("\n") or "…") for m in found if m and m[1].startswith(RUN)]


def shell(command: str, typed: str = "") -> str:
    tools = Path("..", "tools").resolve()
    tools.mkdir(exist_ok=True)
    tool = tools / "taskalg"
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m taskalg "$@"\n')
    tool.chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    more = {"PATH": path, "TASKALG_CACHE": str(tools.parent / "cache")}
    return captured(["sh", "-c", command], more, typed)


def session(text: str) -> str:
    """Give the inputs of a session to the command that starts it."""
    command, *rest = text.splitlines()
    typed = [line.removeprefix(">>> ") for line in rest if line.startswith(">>> ")]
    return shell(command.removeprefix("$ "), "".join(f"{line}\n" for line in typed))


def captured(command: list[str], more: dict[str, str], typed: str = "") -> str:
    """Run a command and return what it prints on both streams."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **more}
    given = typed.encode("utf-8")
    done = run(command, input=given, stdout=PIPE, stderr=STDOUT, env=environment, timeout=200)
    return done.stdout.decode("utf-8")


def doctested(text: str) -> str:
    """Run a block as a doctest and return its complaints."""
    complaints: list[str] = []
    case = doctest.DocTestParser().get_doctest(text, {}, "example", None, 0)
    runner = doctest.DocTestRunner(Checker(), optionflags=doctest.ELLIPSIS)
    runner.run(case, out=complaints.append)
    if case.examples:
        return "".join(complaints)
    return captured([sys.executable, "-c", text], {})


class Checker(doctest.OutputChecker):
    """Doctest's, and `…`."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return matches(want, got) or super().check_output(want, got, optionflags)


RUNNERS: dict[str, Callable[[str], str]] = {
    "taskalg": result,
    "error": result,
    "sh": shell,
    "console": shell,
    "repl": session,
    "python": doctested,
}


def matches(expected: str, got: str, *, about: bool = False) -> bool:
    pattern = "".join(
        "(?s:.*?)" if line == "…" else f"<{re.escape(line).replace('…', '.*?')}>\n"
        for line in lines(expected)
    )
    if about:
        pattern = re.sub(r"(?:\\ )+", r"\\ +", DECIMAL.sub(r"-?[0-9]+[.]?[0-9]*", pattern))
    return re.fullmatch(pattern, "".join(f"<{line}>\n" for line in lines(got))) is not None


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").split("\n")]


def provide(text: str) -> None:
    """Make a toy checkpoint of every path in a text that leads nowhere yet and is not written."""
    written = set(map(Path, re.findall(r" -o ([\w./-]+)", text)))
    for pattern in PATHS:
        for path in map(Path, pattern.findall(text)):
            others = path.is_absolute() or "missing" in str(path) or "taskalg-demo" in path.parts
            if not path.exists() and not others and path not in written:
                make(path, [zlib.crc32(bytes(path)) % 7, 1, 0, 0])


# ---- Documents


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@needs_shell
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.parent.name)
def test_examples_in_documents(document: Path) -> None:
    found = list(failures(document))
    assert not found, "\n\n".join(found)


def test_the_reference_has_examples_of_every_sort() -> None:
    counts = Counter(block.language for block in blocks(REFERENCE) for _ in examples(block))
    assert counts["taskalg"] >= 25
    assert counts["error"] >= 15
    assert counts["sh"] >= 8
    assert counts["python"] >= 1


@needs_shell
@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("```taskalg\na - b\n# task vector  a - b\n\na - b\n# model  a - b\n```\n", 1),
        ("```taskalg\na - nothing\n# model  a\n```\n", 1),
        ("```taskalg\n# x.ta\nz = a\n```\n```sh\n$ cat x.ta\n# x.ta\nz = b\n```\n", 1),
        ("```error\na b\n\nunexpected 'c'\n…\n```\n", 1),
        ("```error\na b\n\nunexpected 'b'\n…\n```\n", 0),
        ("```sh\n$ echo one two\none …\n$ echo three\nfour\n$ pip five\n```\n", 1),
        ("```python\n>>> 1 + 1\n3\n>>> 'a long one'\n'a …'\n```\n", 1),
        ("```python\nraise SystemExit('wrong')\n```\n", 1),
        ("```sh\n$ taskalg check a --model a\nmodel …\n…\n```\n", 0),
        ("```sh about\n$ echo 1.25  x\n1.50 x\n```\n", 0),
        ("```sh about\n$ echo 1.25 x\n1.50 y\n```\n", 1),
        ("```sh\n$ echo 1.25 x\n1.50 x\n```\n", 1),
        ("```repl\n$ taskalg repl\n>>> x = 1/3\nx = 1/3\n>>> 2*x\n2/3\n```\n", 0),
        ("```repl\n$ taskalg repl\n>>> x = 1/3\nx = 1/3\n>>> 2*x\n1/3\n```\n", 1),
        ("```sh\n$ printf '1\\n2\\n3'\n…\n1\n…\n3\n…\n```\n", 0),
        ("```sh\n$ printf '1\\n2\\n3'\n…\n2\n…\n1\n…\n```\n", 1),
    ],
)
def test_a_wrong_example_is_found(folder: Path, text: str, count: int) -> None:
    document = folder / "document.md"
    document.write_text(text, encoding="utf-8")
    assert len(list(failures(document))) == count


def table() -> str:
    rows = [f"| `{op.usage}` | {op.doc} | `{op.example}` |" for op in OPERATORS]
    return "\n".join(["| written | what it does | for example |", "|---|---|---|", *rows])


def test_the_operator_table_is_in_the_reference() -> None:
    assert f"\n{table()}\n" in REFERENCE.read_text(encoding="utf-8"), f"paste:\n{table()}"


def test_the_reference_names_what_is_not_available() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    assert [name for name in NOT_LINEAR if f"`{name}`" not in text] == []


@pytest.mark.parametrize("example", [operator.example for operator in OPERATORS])
def test_examples_in_the_operator_table(example: str) -> None:
    provide("".join(f'checkpoint("{name}")' for name in (*MODELS, *TASKS)))
    assert result(example).startswith(("model  ", "task vector  "))


# ---- Examples


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    provide("".join(recipe.read_text(encoding="utf-8") for recipe in RECIPES))
    assert text.startswith("# ")
    assert format_text(Source(path.name, text)) == text
    stated = RESULT.fullmatch(text.splitlines()[-1])
    assert (stated is None) == (parse(Source(path.name, text)).expression is None)
    if stated is not None:
        recipe = compile(path)
        recipe.plan()
        assert repr(recipe) == stated[1]


def stated(script: Path) -> str:
    """Return what a script prints, as its docstring says."""
    docstring = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    return textwrap.dedent(docstring.rpartition("prints\n\n")[2])


def test_scripts_print_what_they_say(folder: Path) -> None:
    for script in SCRIPTS:
        got = captured([sys.executable, str(script)], {})
        assert matches(stated(script), got), f"{script.name} printed\n{got}"


def test_no_example_is_left_out() -> None:
    assert set(EXAMPLES.glob("*.py")) == {*SCRIPTS, *PAPER}
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    shown = {
        path for link in re.findall(r"\]\(([^):]+)\)", text) if (path := EXAMPLES / link).is_file()
    }
    assert shown >= {*SCRIPTS[1:], *PAPER, *RECIPES}
