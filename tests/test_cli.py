"""The command line: what is typed, what comes back on which stream, and the exit code."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

from taskalg.cli.main import main

VALUES = {
    "base": [1.0, 2.0, 3.0, 4.0],
    "toxic": [2.0, 2.0, 5.0, 4.0],
    "math": [1.0, 3.0, 3.0, 0.5],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make three small checkpoints and go where they are."""
    for name, values in VALUES.items():
        tensor = np.array(values, dtype=np.float32)
        tensors = {"layers.0.w": tensor, "layers.1.w": tensor * 2, "head.w": tensor + 1}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


FILES = ["--base", "base.safetensors", "--task", "toxic=toxic.safetensors"]


def run(*args: str, code: int = 0, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(main, list(args), input=stdin, prog_name="taskalg")
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def answer(*args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*args, "--json").stdout)
    assert found["schema"] == 1
    return found


def test_merge_writes_the_sum_and_says_so_on_stderr(folder: Path) -> None:
    result = run("merge", "base - 0.5*toxic", *FILES, "-o", "out")
    assert result.stdout == ""
    assert result.stderr.startswith("wrote out  3 tensors, 1 shard, 48 B\nread 96 B · ")
    merged = load_file(folder / "out" / "model.safetensors")
    assert merged["layers.0.w"].tolist() == [0.5, 2.0, 2.0, 4.0]


@pytest.mark.parametrize(
    "expression", ["-0.5*toxic + base", "--0.5*-toxic + base", "-toxic/2+base", "-.5*toxic + base"]
)
@pytest.mark.parametrize("first", [True, False])
def test_an_expression_may_start_with_a_minus_sign(
    folder: Path, expression: str, first: bool
) -> None:
    args = [*FILES, "-o", "out.safetensors"]
    run("merge", *([expression, *args] if first else [*args, expression]))
    assert load_file(folder / "out.safetensors")["head.w"].tolist() == [1.5, 3.0, 3.0, 5.0]


def test_two_dashes_end_the_options(folder: Path) -> None:
    assert run("check", *FILES, "--", "-toxic").stdout.startswith("task vector     -toxic\n")


def test_a_misspelt_option_is_an_option_not_an_expression(folder: Path) -> None:
    result = run("merge", "base", "--bsae", "x", "-o", "out", code=2)
    assert "No such option '--bsae'" in result.stderr


def test_quiet_says_nothing(folder: Path) -> None:
    result = run("merge", "base - toxic", *FILES, "-o", "out", "--quiet")
    assert result.output == ""


def test_merge_json_has_every_promised_name(folder: Path) -> None:
    expression = "base + 0.1*toxic + (math - math)"
    found = answer("merge", expression, *FILES, "--model", "math=math.safetensors", "-o", "out")
    promised = "schema out kind coefficients checkpoints_read checkpoints_cancelled bytes_read "
    promised += "bytes_copied bytes_written seconds peak_memory overflowed nonfinite"
    assert set(promised.split()) <= set(found)
    assert found["coefficients"] == {"base": "9/10", "toxic": "1/10"}
    assert found["checkpoints_read"] == ["base", "toxic"]
    assert found["checkpoints_cancelled"] == ["math"]
    assert (found["kind"], found["out"]) == ("model", "out")
    assert (found["bytes_read"], found["bytes_copied"], found["bytes_written"]) == (96, 0, 48)
    assert found["overflowed"] == found["nonfinite"] == 0


def test_explain_and_merge_agree(folder: Path) -> None:
    args = ["base - toxic/3", *FILES]
    planned, done = answer("explain", *args), answer("merge", *args, "-o", "out")
    shared = set(planned) & set(done) - {"peak_memory", "seconds"}
    assert len(shared) >= 10
    assert {name: planned[name] for name in shared} == {name: done[name] for name in shared}
    assert done["peak_memory"] > 0


def test_varying_coefficients_are_listed_by_class(folder: Path) -> None:
    found = answer("explain", "base + toxic[1]", *FILES)
    assert found["coefficients"] == [
        {"tensors": 2, "examples": ["head.w", "layers.0.w"], "coefficients": {"base": "1/1"}},
        {"tensors": 1, "examples": ["layers.1.w"], "coefficients": {"toxic": "1/1"}},
    ]


def test_check_needs_no_files(tmp_path: Path) -> None:
    found = answer("check", "base + 0.4*-toxic", "--model", "base", "--task", "toxic")
    assert found["kind"] == "model"
    assert found["simplified"] == "base - 0.4*toxic"
    assert found["coefficients"] == {"base": "7/5", "toxic": "-2/5"}


def test_a_partial_result_is_refused_unless_allowed(folder: Path) -> None:
    args = ["check", "a + b", "--model", "a", "--model", "b"]
    assert "the coefficients add up to 2" in run(*args, code=2).stderr
    assert "partial" in run(*args, "--allow-partial").stdout


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ("base + (ft - base)", "ft", 0),
        ("0.1*a + 0.2*a", "0.3*a", 0),
        ("-a + b", "b - a", 0),
        ("a + b", "a - b", 1),
        ('x["*.w"]', 'x["*.v"]', 1),
    ],
)
def test_equal_answers_by_exit_code(first: str, second: str, code: int) -> None:
    result = run("equal", first, second, code=code)
    assert result.stdout.startswith("different: " if code else "equal\n")


def test_equal_uses_real_names_when_there_are_files(folder: Path) -> None:
    run("equal", 'base["*.w"]', "base", code=1)
    run("equal", 'base["*.w"]', "base", "--base", "base.safetensors")


def test_names_must_be_known_once_something_is_bound() -> None:
    result = run("equal", "a + bb", "bb + a", "--model", "a", "--model", "b", code=2)
    assert "did you mean 'b'?" in result.stderr


def test_fmt_prints_check_tells(folder: Path) -> None:
    Path("r.ta").write_text("x=1 # one\n", encoding="utf-8")
    assert run("fmt", "r.ta").stdout == "x = 1  # one\n"
    assert "is not formatted" in run("fmt", "r.ta", "--check", code=1).stderr
    assert run("fmt", stdin="x=1").stdout == "x = 1\n"
    Path("r.ta").write_text("x = 1  # one\n", encoding="utf-8")
    assert run("fmt", "r.ta", "--check").output == ""


def test_a_recipe_is_read_and_set_replaces_its_scalar(folder: Path) -> None:
    recipe = 'base = checkpoint("base.safetensors")\ntoxic = task("toxic.safetensors")\n'
    recipe += "strength = 0.4\nbase - strength*toxic\n"
    Path("detox.ta").write_text(recipe, encoding="utf-8")
    assert answer("explain", "-f", "detox.ta")["simplified"] == "base - 0.4*toxic"
    assert answer("explain", "-f", "detox.ta", "--set", "strength=2/3")["simplified"] == (
        "base - 2/3*toxic"
    )
    assert answer("explain", "-f", "detox.ta", "toxic/strength")["simplified"] == "2.5*toxic"
    other = answer("explain", "-f", "detox.ta", "--task", "toxic=math.safetensors")
    assert other["checkpoints_read"] == ["base", "toxic"]


def test_a_scalar_that_nothing_uses_is_refused(folder: Path) -> None:
    assert "used by nothing" in run("explain", "base", *FILES, "--set", "x=1", code=2).stderr


def test_inspect_lists_tensors(folder: Path) -> None:
    text = run("inspect", "base.safetensors").stdout
    assert text.startswith("checkpoint   3 tensors (3 f32), 48 B in 1 file\n")
    found = answer("inspect", "base.safetensors")
    assert [tensor["name"] for tensor in found["tensors"]] == ["head.w", "layers.0.w", "layers.1.w"]


def test_only_shared_with_nothing_shared_is_refused(folder: Path) -> None:
    save_file({"other.w": np.ones(4, np.float32)}, "other.safetensors")
    args = ["base/2 + other/2", *FILES, "--model", "other=other.safetensors", "--only-shared"]
    assert "nothing to combine" in run("explain", *args, code=3).stderr


def test_ops_lists_the_table() -> None:
    names = [operator["name"] for operator in answer("ops")["operators"]]
    assert {"+", "[]", "lerp", "ramp", "task"} <= set(names)
    assert "lerp(a, b, t)" in run("ops").stdout


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["merge", "base +", *FILES, "-o", "x"], 2, "ends too soon"),
        (["merge", "base + tocix", *FILES, "-o", "x"], 2, "did you mean 'toxic'?"),
        (["merge", "base - base", *FILES, "-o", "x"], 2, "nothing is left"),
        (["merge", "ties(base)", *FILES, "-o", "x"], 2, "ties is not available yet"),
        (["merge", "base", "--base", "nowhere", "-o", "x"], 4, "there is no 'nowhere'"),
        (["merge", "base", *FILES, "-o", "base.safetensors"], 5, "input"),
        (["merge", "base - toxic", *FILES, "--dtype", "int4", "-o", "x"], 2, "int4"),
        (["merge", "base - toxic", *FILES, "--engine", "tpu", "-o", "x"], 2, "tpu"),
        (["merge", "base - toxic", *FILES, "--donor", "x", "-o", "x"], 2, "donor"),
        (["merge", "base - toxic", *FILES, "--shard-size", "big", "-o", "x"], 2, "is not a size"),
        (["merge", "1e30*base", *FILES, "--allow-partial", "--dtype", "f16", "-o", "x"], 3, "over"),
        (["merge", "base - toxic", *FILES, "-o", "plain"], 5, "is a file, and a folder"),
        (["merge", "base - toxic", *FILES, "-o", "/dev/null"], 5, "is a file, and a folder"),
        (["merge", "-o", "x"], 2, "there is no expression"),
        (["merge", "base", "--base"], 2, "requires an argument"),
        (["check", "base", *FILES, "--model", "use=x"], 2, "choose one like _use"),
        (["check", "a", "--model", "2a"], 2, "cannot be a name"),
        (["check", "a", "--model", "a", "--task", "a"], 2, "bound twice"),
        (["check", "a", "--model", "a", "--model", "a"], 2, "given twice"),
        (["merge", "a", "--model", "a", "-o", "x"], 2, "declared without a file"),
        (["explain", "-f", "nowhere.ta"], 4, "nowhere.ta"),
        (["check", "a", "+", "b", "--model", "a"], 2, "put each expression in quotes"),
        (["explain", "base", *FILES, "--base", "x"], 2, "--base is given twice"),
    ],
)
def test_every_failure_has_its_exit_code(
    folder: Path, args: list[str], code: int, words: str
) -> None:
    (folder / "plain").touch()
    before = sorted(os.listdir(folder))
    result = run(*args, code=code)
    assert words in result.stderr
    assert result.stdout == ""
    assert sorted(os.listdir(folder)) == before


def test_an_unexpected_exception_is_called_our_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskalg.listing.operators_text", lambda: 1 / 0)
    result = CliRunner().invoke(main, ["ops"])
    assert result.exit_code == 70
    assert "this is a bug in taskalg" in result.stderr


@pytest.mark.parametrize("command", [None, *sorted(main.commands)])
def test_help_shows_an_example_first_and_is_short(command: str | None) -> None:
    lines = run(*([command] if command else []), "--help").stdout.splitlines()
    example = next(i for i, line in enumerate(lines) if line.startswith("  taskalg "))
    assert example <= (7 if command == "sweep" else 4)
    assert len(lines) <= {None: 24, "merge": 62, "sweep": 96}.get(command, 56)
    assert max(map(len, lines)) <= 100


def test_the_first_page_fits_a_small_terminal_and_names_every_command() -> None:
    lines = run("--help").stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert not any("..." in line for line in lines[1:])  # every sentence is whole
    listed = [line[12:].split()[0] for line in lines[6:-2]]
    assert sorted(listed) == sorted(main.commands)
    sections = [line[2:].split()[0] for line in lines[6:-2] if line[2] != " "]
    assert sections == ["evaluate", "look", "explore", "repeat", "begin"]


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_option_says_what_it_does_and_has_its_section(command: str) -> None:
    page = run(command, "--help").stdout
    for parameter in main.commands[command].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert f"  {parameter.opts[0]} " in page or f"  {parameter.opts[0]}\n" in page
    titles = [line[:-1] for line in page.splitlines() if re.fullmatch(r"[A-Z][a-z ]+:", line)]
    order = ["Options", "Names", "Result", "Run", "Exit codes", "Environment"]
    assert titles == [title for title in order if title in titles]
    reads = any(parameter.name == "bases" for parameter in main.commands[command].params)
    assert ("Exit codes" in titles) == reads


def test_sigterm_cleans_up_and_exits_with_130(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        tensor = rng.standard_normal(60_000).astype(np.float32)
        save_file({"w": tensor}, tmp_path / f"{name}.safetensors")
    command = [sys.executable, "-m", "taskalg", "merge", "a/3 + 2*b/3", "--engine", "reference"]
    command += ["--model", "a=a.safetensors", "--model", "b=b.safetensors", "-o", "out"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
    while not any((tmp_path / "out").glob(".*/shard-*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert b"interrupted" in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stream", [1, 2])
def test_a_stream_that_the_caller_closed_is_no_failure(folder: Path, stream: int) -> None:
    command = [sys.executable, "-m", "taskalg", "merge", "base", *FILES, "-o", "out", "--json"]
    script = f'exec "$@" {stream}>&-'
    found = subprocess.run(["sh", "-c", script, "sh", *command], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    assert (folder / "out" / "model.safetensors").exists()


def test_a_full_disk_for_what_is_printed_is_told(folder: Path) -> None:
    command = [sys.executable, "-m", "taskalg", "inspect", "base.safetensors"]
    with open("/dev/full", "w") as full:
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (found.returncode, found.stderr) == (5, "no space is left for what is printed\n")


def test_a_closed_pipe_is_not_a_traceback(folder: Path) -> None:
    command = f"{sys.executable} -m taskalg inspect base.safetensors | true"
    result = subprocess.run(command, shell=True, cwd=folder, capture_output=True, check=False)
    assert b"Traceback" not in result.stderr


def test_a_terminal_without_unicode_gets_escapes(folder: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "taskalg", "merge", "base - toxic/3", *FILES, "-o", "λ"]
    result = subprocess.run(command, cwd=folder, capture_output=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert b"wrote \\u03bb" in result.stderr


def test_ctrl_c_that_the_compiler_swallows_is_not_forgotten(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taskalg.engines.registry import get_engine

    def swallowing(name: str) -> Any:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:  # as in a callback from C
            return get_engine(name)
        raise AssertionError("no signal came")

    monkeypatch.setattr("taskalg.running.execute.get_engine", swallowing)
    result = run("merge", "base - 0.5*toxic", *FILES, "-o", "out", code=130)
    assert "interrupted; nothing was published" in result.stderr
    assert not (folder / "out").exists()


def test_a_closed_stderr_is_no_obstacle(folder: Path) -> None:
    command = [sys.executable, "-m", "taskalg", "merge", "base - 0.5*toxic", *FILES, "-o", "out"]
    subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *command], check=True)
    assert (folder / "out" / "model.safetensors").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_help_that_cannot_be_printed_is_told(folder: Path) -> None:
    command = f"{sys.executable} -m taskalg --help > /dev/full"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (5, "cannot print: No space left on device\n")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--base", "base.safetensors", "--task", "x"], "--task x=PATH"),
        (["--base", "base.safetensors", "--model", "x"], "--model x=PATH"),
    ],
)
def test_a_binding_that_lacks_something_says_what(
    folder: Path, args: list[str], words: str
) -> None:
    assert words in run("merge", "base + 0*x", *args, "-o", "out", code=2).stderr


def test_a_scalar_that_is_none_is_told(folder: Path) -> None:
    stderr = run("merge", "base - s*toxic", *FILES, "--set", "s=abc", "-o", "out", code=2).stderr
    assert "'s' must be set to a scalar" in stderr and "help: write --set s=0.4" in stderr
