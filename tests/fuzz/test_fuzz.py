"""The fuzz targets without libFuzzer, on every run: promises hold, and a broken one is noticed."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskalg.api import build as build_recipe
from taskalg.checkpoints import header
from taskalg.errors import ExpressionError, MismatchError, Source, Span
from taskalg.language.parser import parse
from tests.fuzz import fuzz_header, fuzz_parser, harness, headers, texts
from tests.fuzz.headers import Pairs, build, tensor

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def in_memory() -> Iterator[None]:
    """Put files in memory under the package, and start counting anew."""
    for target in (fuzz_header, fuzz_parser):
        target.tally.executions = 0
        target.tally.outcomes.clear()
    restore = [harness.Memory(fuzz_parser.FILES).install(), fuzz_header.install()]
    yield
    for put_back in reversed(restore):
        put_back()


def test_mutants_of_headers_are_read_or_refused_as_promised() -> None:
    harness.explore(fuzz_header.check, headers.mutate, headers.SEEDS, 4000)
    assert fuzz_header.tally.executions == 4000
    assert fuzz_header.tally.share > 0.2
    for outcome in ("accepted by both", "refused by both", "refused by us alone: twice"):
        assert fuzz_header.tally.outcomes[outcome], outcome


def test_mutants_of_texts_mean_something_or_are_refused_as_promised() -> None:
    fuzz_header.memory.files.update(fuzz_parser.FILES)
    seeds = [text.encode() for text in texts.SEEDS]
    harness.explore(fuzz_parser.check, texts.mutate, seeds, 600)
    assert fuzz_parser.tally.share > 0.2
    assert fuzz_parser.tally.outcomes["means something"] > 50


def entries(*ranges: tuple[str, int]) -> Pairs:
    return Pairs([[name, tensor("U8", [4], start)] for name, start in ranges])


BROKEN_READERS: dict[str, tuple[str, Any, bytes]] = {
    "keeps the last of two": (
        "parse_object",
        lambda content, count: json.loads(content),
        build(entries(("t", 0), ("t", 0)), bytes(4)),
    ),
    "takes a gap": (
        "_check_tiling",
        lambda specs, start, size: None,
        build(entries(("t", 0), ("u", 6)), bytes(10)),
    ),
    "takes a wrong size": (
        "_check_size",
        lambda name, dtype, shape, size: None,
        build(Pairs([["t", tensor("U8", [4], 0)]]), bytes(4)).replace(b"[4]", b"[5]"),
    ),
    "refuses what is sound": (
        "MOST_DIMENSIONS",
        0,
        build(entries(("t", 0)), bytes(4)),
    ),
    "fails otherwise": (
        "_specs",
        lambda *arguments: 1 / 0,
        build(entries(("t", 0)), bytes(4)),
    ),
}


@pytest.mark.parametrize("case", BROKEN_READERS)
def test_a_broken_header_reader_is_noticed(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    name, instead, content = BROKEN_READERS[case]
    fuzz_header.check(content)
    monkeypatch.setattr(header, name, instead)
    with pytest.raises((AssertionError, ZeroDivisionError)):
        fuzz_header.check(content)


BROKEN_STAGES: dict[str, tuple[str, Any]] = {
    "prints another text": ("print_recipe", lambda tree: "a"),
    "formats to another text": ("format_text", lambda source: "a\n"),
    "has no answer": ("parse", lambda source: 1 / 0),
}


@pytest.mark.parametrize("case", BROKEN_STAGES)
def test_a_broken_stage_is_noticed(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    fuzz_parser.check(b"a - base/2")
    name, instead = BROKEN_STAGES[case]
    monkeypatch.setattr(fuzz_parser, name, instead)
    with pytest.raises((AssertionError, ZeroDivisionError)):
        fuzz_parser.check(b"a - base/2")


def test_a_sum_that_prints_as_another_is_noticed() -> None:
    tree = parse(Source("<test>", "a - base/2"))
    found = build_recipe(None, tree.source, fuzz_parser.GIVEN)
    fuzz_parser.check_meaning(found, str(found), tree)
    with pytest.raises(AssertionError):
        fuzz_parser.check_meaning(found, "-0.5*base", tree)


@pytest.mark.parametrize(
    "error",
    [
        MismatchError("no error of a text"),
        ExpressionError("beyond", Span(Source("<test>", "a"), 3, 4)),
        ExpressionError("long" * fuzz_parser.LONGEST),
    ],
)
def test_an_error_that_misleads_is_noticed(error: Any) -> None:
    with pytest.raises(AssertionError):
        fuzz_parser.check_error(error)


@pytest.mark.parametrize("said", ["\x1b[2J", "\u202ereversed", "\ud800", "x" * 100])
def test_a_message_that_upsets_a_terminal_is_noticed(said: str) -> None:
    harness.check_message("plain\nwords", 100)
    with pytest.raises(AssertionError):
        harness.check_message(said, 100)


@pytest.mark.soak
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.parametrize(("target", "runs"), [("fuzz_header", 30_000), ("fuzz_parser", 5_000)])
def test_libfuzzer_finds_nothing(tmp_path: Path, target: str, runs: int) -> None:
    options = [f"-runs={runs}", f"-artifact_prefix={tmp_path}/"]
    command = [sys.executable, str(HERE / f"{target}.py"), *options]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stderr[-3000:]
    assert f"{runs:,} executions" in found.stderr
    assert list(tmp_path.iterdir()) == []
