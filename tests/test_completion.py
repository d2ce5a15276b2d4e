"""Completion: what each place of a command line offers, and that real shells put it in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from taskalg.cli import completion
from taskalg.cli.completion import AFTER, BEFORE, SHELLS, VARIABLE, prepare, script
from taskalg.cli.main import COMMANDS, main

ROOT = Path(__file__).parent.parent
RECIPE = 'base = checkpoint("gpt2")\nstrength = 0.4\nforget(t) = -t\n'
NOBODY_KNOWS = {"command", "maximize", "minimize", "sample", "shard_size", "subject_to"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("gpt2", "gpt2-toxic", "with space", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "gpt2" / "weights").touch()
    (tmp_path / "picture.png").touch()
    (tmp_path / "zoo.ta").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "use.ta").write_text('use "zoo.ta"\nextra = 2\nbase', encoding="utf-8")
    (tmp_path / "bad.ta").write_text("a = = b", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    prepare(main)


def offered(
    monkeypatch: pytest.MonkeyPatch, before: str, after: str = "", shell: str = "zsh"
) -> list[str]:
    monkeypatch.setenv(BEFORE, before)
    monkeypatch.setenv(AFTER, after)
    return SHELLS[shell](main, {}, "taskalg", VARIABLE).complete().split("\n")


# ---- What is offered

FUNCTIONS = ["lerp(", "mean("]
BOUND = "taskalg merge --base gpt2 --task toxic=gpt2-toxic"


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("taskalg mer", ["merge "]),
        ("taskalg merge --only", ["--only-shared "]),
        ("taskalg merge --rows ", ["all ", "common "]),
        ("taskalg merge --engine=c", ["--engine=cpu "]),
        ("taskalg merge --dtype b", ["bf16 "]),
        ("taskalg merge --base gp", ["gpt2/", "gpt2-toxic/"]),
        ("taskalg merge -f z", ["zoo.ta "]),
        (
            "taskalg merge -f ",
            ["bad.ta ", "gpt2/", "gpt2-toxic/", "use.ta ", "with space/", "zoo.ta "],
        ),
        ("taskalg merge -f gpt2/w", ["gpt2/weights "]),
        ("taskalg diff gpt2/", ["gpt2/weights "]),
        ("taskalg merge -o with", ["with space/"]),
        ("taskalg merge -o .h", [".hidden/"]),
        ("taskalg inspect gpt2-", ["gpt2-toxic/"]),
        ("taskalg fmt nowhere/", [""]),
        ("taskalg merge --task tox", [""]),
        ("taskalg merge --task toxic=gpt2-", ["toxic=gpt2-toxic/"]),
        ("taskalg merge --task=toxic=gpt2-", ["--task=toxic=gpt2-toxic/"]),
        (f"{BOUND} --donor ", ["base ", "toxic "]),
        (f"{BOUND} to", ["toxic"]),
        (f"{BOUND} 'base - to", ["base - toxic"]),
        (f'{BOUND} "base - 0.4*to', ["base - 0.4*toxic"]),
        (f'{BOUND} "le', ["lerp("]),
        (f'{BOUND} "lerp(base, to', ["lerp(base, toxic"]),
        (f"{BOUND} '-to", ["-toxic"]),
        (f'{BOUND} "base[', ["base[base", "base[toxic"]),
        (f"{BOUND} 'base[\"*.ml", [""]),
        (f'{BOUND} "2*base ', [""]),
        (f'{BOUND} "0.4to', [""]),
        (f'{BOUND} "0.', [""]),
        (f'{BOUND} "base)', [""]),
        ("taskalg equal 'a - b' --model a --model b 'a + ", ["a + a", "a + b"]),
        ("taskalg merge -f zoo.ta 'base + f", ["base + forget("]),
        ("taskalg merge -f use.ta ex", ["extra"]),
        ("taskalg merge -f bad.ta le", ["lerp("]),
        ("taskalg merge -f missing.ta le", ["lerp("]),
        ("taskalg merge -f zoo.ta --set st", ["strength="]),
        ("taskalg merge -f zoo.ta --set strength=0", [""]),
        ("taskalg geometry --model a --model b 'a + b' 'a - ", ["a - a", "a - b"]),
        ("taskalg diff gpt2 gpt", ["gpt2/", "gpt2-toxic/"]),
        ("taskalg diff --model gp gp", ["gp", "gpt2/", "gpt2-toxic/"]),
        ("taskalg completion ", ["bash ", "zsh ", "fish "]),
    ],
)
def test_what_could_stand_at_the_cursor(
    monkeypatch: pytest.MonkeyPatch, before: str, expected: list[str]
) -> None:
    found = offered(monkeypatch, before)
    if before.endswith(("base[", "+ ", "- ")):  # functions could stand there as well
        found = [word for word in found if not word.endswith("(")]
    assert found == expected


def test_names_bound_behind_the_cursor_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    found = offered(monkeypatch, 'taskalg merge "base - to', '" --task toxic=gpt2 -o x')
    assert found == ["base - toxic"]
    assert offered(monkeypatch, 'taskalg merge "base - to') == [""]


def test_a_greek_name_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert offered(monkeypatch, "taskalg check --model λ_toxic 'λ") == ["λ_toxic"]


def test_fish_gets_descriptions_and_no_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = offered(monkeypatch, "taskalg merge --only", shell="fish")
    assert found == ["--only-shared\tCombine the tensors that all have."]


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("taskalg merge --task toxic=gpt2-", ["gpt2-toxic/"]),  # bash broke the word at =
        ("taskalg merge --engine=c", ["cpu "]),
        ("taskalg merge --base wi", ["with\\ space/"]),
        ('taskalg merge --base "wi', ["with space/"]),
        ('taskalg merge --task a="wi', ["with space/"]),
        ("taskalg merge -f z", ["zoo.ta "]),
        ('taskalg merge -f "z', ["zoo.ta"]),  # readline closes the quote
        (f"{BOUND} 'base - to", ["base - toxic"]),
        (f"{BOUND} 0.4*to", ["0.4\\*toxic"]),
    ],
)
def test_bash_gets_what_follows_its_last_break(
    monkeypatch: pytest.MonkeyPatch, before: str, expected: list[str]
) -> None:
    assert offered(monkeypatch, before, shell="bash") == expected


def test_special_characters_are_quoted_for_bash(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    (folder / "x$(y)`").mkdir()
    assert offered(monkeypatch, "taskalg inspect x", shell="bash") == ["x\\$\\(y\\)\\`/"]
    assert offered(monkeypatch, 'taskalg inspect "x', shell="bash") == ["x\\$(y)\\`/"]
    assert offered(monkeypatch, "taskalg inspect 'x", shell="bash") == ["x$(y)`/"]
    (folder / "line\nbreak").mkdir()
    assert offered(monkeypatch, "taskalg inspect li", shell="bash") == [""]


def test_every_parameter_is_in_the_table_or_has_a_reason_not_to_be() -> None:
    free = {
        parameter.name
        for command in COMMANDS
        for parameter in command.params
        if isinstance(parameter.type, click.types.StringParamType)
    }
    assert free - completion.COMPLETES.keys() == NOBODY_KNOWS


# ---- Scripts


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_prints_a_script(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert result.stdout == script(main, shell)
    assert f"{VARIABLE}={shell}_complete" in result.stdout
    assert BEFORE in result.stdout


def test_another_shell_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["completion", "csh"]).exit_code == 2


@pytest.fixture
def tool(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which `taskalg` is a command."""
    folder = tmp_path_factory.mktemp("tools")
    tool = folder / "taskalg"
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m taskalg "$@"\n', encoding="utf-8")
    tool.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    home = {"HOME": str(folder), "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT), "PATH": path}
    return {**os.environ, **home, "TERM": "dumb"}


def ran(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "cursor", "expected"),
    [
        ("taskalg mer", None, "merge "),
        ('taskalg merge --task toxic=gpt2 "base - to', None, "base - toxic"),
        ('taskalg merge "0.4*tox" --task toxic=gpt2', 22, "0.4*toxic"),
        ("taskalg merge --task λ=gpt2-", None, "gpt2-toxic/"),
    ],
)
def test_bash_asks(tool: dict[str, str], line: str, cursor: int | None, expected: str) -> None:
    program = """
        source <(taskalg completion bash)
        complete -p taskalg
        COMP_LINE=$1 COMP_POINT=$2
        _taskalg_completion taskalg
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    point = str(len(line) if cursor is None else cursor)
    registered, *replies = ran(
        ["bash", "--norc", "--noprofile", "-c", program, "-", line, point], tool
    ).splitlines()
    assert registered == "complete -o nosort -o nospace -F _taskalg_completion taskalg"
    assert replies == [expected]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_is_not_disturbed_by_a_command_that_fails(tool: dict[str, str]) -> None:
    program = """
        source <(taskalg completion bash)
        COMP_LINE='taskalg x' COMP_POINT=9
        _taskalg_completion /no/such/command
        echo "[${COMPREPLY[*]}]"
    """
    assert ran(["bash", "--norc", "--noprofile", "-c", program], tool) == "[]\n"


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_asks(tool: dict[str, str]) -> None:
    program = 'taskalg completion fish | source; complete -C "$argv[1]"'
    line = 'true; taskalg merge --task toxic=gpt2 "base - to'
    found = ran(["fish", "--no-config", "-c", program, line], tool)
    assert found == "base - toxic\n"


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_asks(tool: dict[str, str]) -> None:
    """Run the function as zsh does, with `compadd` printing what it is told to add."""
    program = """
        compdef() { :; }
        compadd() { while [[ $1 != -- ]]; do shift; done; shift; print -rl -- "$@"; }
        source <(taskalg completion zsh)
        words=(taskalg merge --task toxic=gpt2 '"base - to') CURRENT=5
        QIPREFIX='"' PREFIX='base - to' SUFFIX= QISUFFIX=
        _taskalg_completion
        words=(taskalg mer) CURRENT=2 QIPREFIX= PREFIX=mer
        _taskalg_completion
    """
    found = ran(["zsh", "-f", "-c", program], tool).split()
    assert found == ["base", "-", "toxic", "merge"]


def test_no_run_but_a_completion_pays_for_it(tool: dict[str, str]) -> None:
    program = """
import sys
from taskalg.cli.main import main
heavy = {"numba", "torch", "matplotlib", "IPython", "prompt_toolkit", "taskalg.cli.completion"}
print(heavy & set(sys.modules))
from taskalg.cli.completion import prepare
prepare(main)
heavy.discard("taskalg.cli.completion")
print(heavy & set(sys.modules))
"""
    assert ran([sys.executable, "-c", program], tool) == "set()\nset()\n"


def test_expressions_may_be_more_than_wanted_while_a_line_is_typed() -> None:
    assert isinstance(main, click.Group)
    context = main.commands["check"].make_context("check", ["a", "b", "c"], resilient_parsing=True)
    assert context.params["expr"] == "a"
