"""A session: spreadsheet's names, answers as golden transcripts, and recipe files that mean it."""

import itertools
import re
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import taskalg as ta
from taskalg.cli.main import main
from taskalg.compiler import Bindings, bind
from taskalg.errors import Source
from taskalg.language.format import format_text, tokens
from taskalg.sweeping.values import Sweep
from taskalg.workbench.answer import Answer
from taskalg.workbench.commands import COMMANDS
from taskalg.workbench.pieces import is_complete, pieces
from taskalg.workbench.session import Session
from tests.strategies import LEAVES, TASKS, examples, recipes, written

TRANSCRIPTS = sorted((Path(__file__).parent / "cases" / "sessions").glob("*.txt"))
_SECONDS = re.compile(r"\b\d+\.\d s\b")  # that something took
VALUES = {
    "base": [1.0, 2.0, 3.0, 4.0],
    "toxic": [2.0, 2.0, 5.0, 4.0],
    "math": [1.0, 3.0, 3.0, 0.5],
}
SCORE = """\
import sys
from safetensors.numpy import load_file
print(float(load_file(sys.argv[1] + "/model.safetensors")["layers.0.w"][0]))
"""
ZOO = """\
base = checkpoint("base.safetensors")
toxic = task("toxic.safetensors")
math = task("math.safetensors")
strength = 0.4
forget(t, amount) = -amount*t
base + forget(toxic, strength)
"""


def write_zoo(folder: Path) -> None:
    for name, values in VALUES.items():
        tensor = np.array(values, dtype=np.float32)
        tensors = {"layers.0.w": tensor, "layers.1.w": tensor * 2, "head.w": tensor + 1}
        save_file(tensors, folder / f"{name}.safetensors")
    (folder / "zoo.ta").write_text(ZOO, encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with three small checkpoints and a recipe, and go there."""
    write_zoo(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKALG_CACHE", str(tmp_path / ".cache"))
    return tmp_path


def told(session: Session, text: str) -> str:
    """Answer an input that is right."""
    answer = session.answer(text)
    assert answer.error is None, answer.text
    return answer.text


def refused(session: Session, text: str) -> str:
    """Answer an input that is wrong."""
    answer = session.answer(text)
    assert answer.error is not None, answer.text
    assert answer.text == str(answer.error)
    return answer.text


# ---- Names as cells


class Cells:
    """What a spreadsheet of numbers does, written down again: formulas by name."""

    def __init__(self) -> None:
        self.formulas: dict[str, dict[str, int]] = {}

    def value(self, name: str) -> Fraction:
        formula = self.formulas[name]
        return Fraction(formula[""]) + sum(
            factor * self.value(other) for other, factor in formula.items() if other
        )

    def accepts(self, name: str, formula: dict[str, int]) -> bool:
        used = formula.keys() - {""}
        return used <= self.formulas.keys() and not any(self.reaches(u, name) for u in used)

    def reaches(self, start: str, end: str) -> bool:
        onward = self.formulas[start].keys() - {""}
        return start == end or any(self.reaches(one, end) for one in onward)


CELLS = [f"x{index}" for index in range(5)]
formulas = st.builds(
    lambda used, constant: {**used, "": constant},
    st.dictionaries(st.sampled_from(CELLS), st.integers(-3, 3), max_size=3),
    st.integers(-9, 9),
)
assignments = st.lists(st.tuples(st.sampled_from(CELLS), formulas), min_size=1, max_size=20)


def formula_text(formula: dict[str, int]) -> str:
    return " + ".join([str(formula[""]), *(f"{f}*{n}" for n, f in formula.items() if n)])


@examples(150)
@given(assignments)
def test_a_new_binding_takes_the_place_of_the_old_one_and_what_depends_on_it_follows(
    steps: list[tuple[str, dict[str, int]]],
) -> None:
    session, cells = Session(), Cells()
    for name, formula in steps:
        answer = session.answer(f"{name} = {formula_text(formula)}")
        assert (answer.error is None) == cells.accepts(name, formula), answer.text
        if answer.error is None:
            cells.formulas[name] = formula
        assert list(session.names) == sorted(cells.formulas)
        for cell in cells.formulas:
            assert Fraction(told(session, cell)) == cells.value(cell)


@examples(60)
@given(assignments, st.randoms(use_true_random=False))
def test_the_order_of_replacements_does_not_matter(
    steps: list[tuple[str, dict[str, int]]], rng: Any
) -> None:
    cells = Cells()
    for name, formula in steps:
        if cells.accepts(name, formula):
            cells.formulas[name] = formula
    session, order = Session(), list(cells.formulas)
    for name in order:
        told(session, f"{name} = 0")
    rng.shuffle(order)
    for name in order:
        told(session, f"{name} = {formula_text(cells.formulas[name])}")
    for name in order:
        assert Fraction(told(session, name)) == cells.value(name)


def test_a_function_is_replaced_and_what_calls_it_follows(folder: Path) -> None:
    session = Session()
    session.start("zoo.ta")
    told(session, "fix = base + forget(toxic, 1)")
    answer = told(session, "forget(t, amount) = -2*amount*t")
    assert answer.splitlines()[1] == "was forget(t, amount) = -amount*t; fix follows"
    assert told(session, ":equal fix, base - 2*toxic") == "equal"


@pytest.mark.parametrize(
    "text",
    [
        "toxic = 1",  # fix would subtract a scalar
        "forget(t) = t",  # fix gives it two arguments
        "strength = base",
        "forget = 2",
        "checkpoint = 2",
        "strength = (",
        "fix = nobody",
        ':load toxic "nothing here.safetensors"',
        'use "zoo.tar"',
        'use "twice.ta"',
        ":load twice.ta",
        ":let",
        ":let 1 +",
    ],
)
def test_an_error_changes_nothing(folder: Path, text: str) -> None:
    (folder / "twice.ta").write_text("new = 1\nnew = 2\n", encoding="utf-8")
    session = Session()
    session.start("zoo.ta")
    told(session, "fix = base + forget(toxic, strength)")
    before = {name: told(session, name) for name in session.names}
    if text != ":let":  # which is right; the test can fail
        refused(session, text)
    assert {name: told(session, name) for name in session.names} == before


def test_an_interruption_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    session.start("zoo.ta")

    def interrupted(recipe: ta.Recipe) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("taskalg.workbench.stating.described", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.answer("toxic = base")
    assert told(session, "toxic").startswith("task vector  toxic\n")


def test_what_the_command_line_binds_gives_way_to_what_is_typed(folder: Path) -> None:
    given = bind("base.safetensors", {"toxic": "toxic.safetensors"}, None, {})
    session = Session(given)
    assert session.start().text == "base and toxic loaded (headers only)"
    told(session, "fix = base - toxic")
    answer = told(session, ":load base math.safetensors")
    assert answer.splitlines()[-1] == "was base.safetensors; toxic and fix follow"
    assert told(session, ":equal fix, 2*base - checkpoint('toxic.safetensors')") == "equal"


def test_what_the_command_line_binds_replaces_what_the_file_does(folder: Path) -> None:
    session = Session(ta_bindings(strength="1/3"))
    assert "model  base - 1/3*toxic" in session.start("zoo.ta").text
    assert told(session, "strength") == "1/3"
    assert told(session, ":equal base - toxic/3, base + forget(toxic, strength)") == "equal"


def ta_bindings(**scalars: str) -> Bindings:
    from taskalg.compiler import scalar

    return bind(None, None, None, {name: scalar(text, name) for name, text in scalars.items()})


def test_a_file_taken_against_itself_is_nothing(folder: Path) -> None:
    session = Session()
    told(session, ":load base base.safetensors")
    assert "nothing: it is the file" in told(session, ':let same = task("base.safetensors")')
    assert "nothing: it is the file" in told(session, ":models")
    assert "was nothing" in told(session, "same = base")


def test_the_home_of_nobody_is_a_name_like_any_other(folder: Path) -> None:
    session = Session()
    told(session, ":load base base.safetensors")
    assert "there is no folder '~nobody.here'" in refused(session, ":save ~nobody.here/x.ta base")
    assert "wrote ~nobody.here/x" in told(session, ":merge base ~nobody.here/x")
    assert (folder / "~nobody.here" / "x").is_dir()
    told(session, ":save ~nobody.here/x.ta base")


def test_a_file_that_changed_is_opened_again(folder: Path) -> None:
    session = Session()
    session.start("zoo.ta")
    assert "writes 48 B" in told(session, "base + 2*toxic")
    for name in ("base", "toxic"):
        save_file({"w": np.zeros(8, dtype=np.float32)}, folder / f"{name}.safetensors")
    assert "writes 32 B" in told(session, "base + 2*toxic")


def test_headers_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    session.start("zoo.ta")
    told(session, "base + toxic")
    monkeypatch.setattr("taskalg.expression.open_checkpoint", None)
    told(session, "base + 2*toxic")
    with pytest.raises(TypeError):  # the guard can fail
        session.answer('base + checkpoint("math.safetensors") - base')


# ---- Recipe files


@pytest.fixture(scope="module")
def leaves(tmp_path_factory: pytest.TempPathFactory) -> Bindings:
    """Write a small checkpoint for every name of the strategies."""
    folder = tmp_path_factory.mktemp("leaves")
    names = [f"layers.{layer}.mlp.{part}" for layer in range(3) for part in ("p", "q")]
    for number, leaf in enumerate(LEAVES):
        tensors = {n: np.full(2, number + i, np.float32) for i, n in enumerate([*names, "p"])}
        save_file(tensors, folder / f"{leaf}.safetensors")
    paths = {leaf: str(folder / f"{leaf}.safetensors") for leaf in LEAVES}
    models = {leaf: path for leaf, path in paths.items() if leaf not in (*TASKS, "base")}
    given = bind(paths["base"], {leaf: paths[leaf] for leaf in TASKS}, models, {})
    return Bindings({**given.values, **ta_bindings(strength="0.3").values})


@examples(60)
@given(data=st.data(), recipe=recipes())
def test_a_saved_recipe_means_what_was_saved(
    leaves: Bindings, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, recipe: Any
) -> None:
    lines, expression = recipe
    session, text = Session(leaves), data.draw(written(expression))
    if any(session.answer(line).error for line in lines) or session.answer(text).error:
        return  # a pattern that selects nothing, and such
    path = tmp_path_factory.mktemp("saved") / "saved.ta"
    told(session, f':save "{path}" {text}')
    assert ta.compile(path) == session.recipe(text)
    saved = path.read_text("utf-8")
    assert format_text(Source("<saved>", saved)) == saved


def test_enough_random_recipes_are_saved(leaves: Bindings) -> None:
    counts = {True: 0, False: 0}

    @examples(60)
    @given(data=st.data(), recipe=recipes())
    def count(data: st.DataObject, recipe: Any) -> None:
        lines, expression = recipe
        session = Session(leaves)
        inputs = [*lines, data.draw(written(expression))]
        counts[all(session.answer(line).error is None for line in inputs)] += 1

    count()
    assert counts[True] > counts[False] / 3


def test_only_what_is_needed_is_saved_and_paths_work_from_there(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    session = Session()
    session.start("zoo.ta")
    told(session, ':load --task code "elsewhere/../math.safetensors"')
    told(session, "fix = base + forget(toxic, strength)")
    answer = told(session, ":save elsewhere/fix.ta fix")
    assert answer == "wrote elsewhere/fix.ta  with base, toxic, strength, forget and fix"
    text = (folder / "elsewhere" / "fix.ta").read_text("utf-8")
    assert text.splitlines()[0] == f'base = checkpoint("{folder / "base.safetensors"}")'
    assert "math" not in text
    told(session, ":save fix.ta base + code")
    text = (folder / "fix.ta").read_text("utf-8")
    assert text == (
        'base = checkpoint("base.safetensors")\ncode = task("math.safetensors")\nbase + code\n'
    )
    assert ta.compile(folder / "elsewhere" / "fix.ta") == session.recipe("fix")


def test_a_recipe_is_replaced_only_when_that_is_asked_for(folder: Path) -> None:
    session = Session()
    session.start("zoo.ta")
    assert "is there already" in refused(session, ":save zoo.ta base")
    assert (folder / "zoo.ta").read_text("utf-8") == ZOO
    told(session, ":save zoo.ta base --overwrite")
    assert (folder / "zoo.ta").read_text("utf-8").splitlines()[1:] == ["base"]
    assert "there is no folder 'nowhere'" in refused(session, ":save nowhere/zoo.ta base")
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"{name}.safetensors" for name in sorted(VALUES)),
        "zoo.ta",
    ]


@pytest.mark.parametrize("name", ["base.safetensors", "notes.txt", "."])
def test_nothing_but_a_recipe_is_replaced_by_one(folder: Path, name: str) -> None:
    (folder / "notes.txt").write_text("not a recipe: {}", encoding="utf-8")
    session = Session()
    session.start("zoo.ta")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert "is no recipe" in refused(session, f":save {name} base --overwrite")
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_the_last_sum_is_saved_when_no_other_is_named(folder: Path) -> None:
    session = Session()
    assert "no sum was shown before" in refused(session, ":save last.ta")
    session.start("zoo.ta")
    told(session, "base - 0.5*toxic")
    told(session, "strength*2")  # a scalar is no sum
    refused(session, "base + nobody")
    assert "a scalar is no recipe" in refused(session, ":save last.ta strength")
    told(session, ":save last.ta")
    assert ta.compile(folder / "last.ta") == session.recipe("base - 0.5*toxic")


def test_what_python_made_is_saved(folder: Path) -> None:
    base = ta.checkpoint("base.safetensors", name="base")
    toxic = ta.task("toxic.safetensors", base, name="toxic")
    session = Session()
    session.give({"fix": base - 0.4 * toxic, "half": ta.compile("1/2")})
    session.give({"toxic": toxic})
    told(session, "best = fix + half*toxic")
    assert told(session, ":let").splitlines() == [
        "fix = base - 0.4*toxic",
        "half = 0.5",
        "best = fix + half*toxic",
    ]
    told(session, ":save best.ta")
    assert (folder / "best.ta").read_text("utf-8").splitlines()[:3] == [
        'base = checkpoint("base.safetensors")',
        'toxic = task("toxic.safetensors", base)',
        "fix = base - 0.4*toxic",
    ]
    assert ta.compile(folder / "best.ta") == base + toxic / 10


def test_what_has_no_file_is_not_saved() -> None:
    session = Session(bind(None, None, {"a": None, "b": {"w": np.zeros(2)}}))
    for name in "ab":
        assert f"'{name}' has no file" in refused(session, f":save x.ta {name}")


def test_a_recipe_that_would_mean_something_else_there_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "there").mkdir()
    save_file({"w": np.ones(2)}, folder / "there" / "base.safetensors")
    monkeypatch.setattr("taskalg.workbench.saving._moved_path", lambda path, folder: path)
    session = Session()
    session.start("zoo.ta")
    assert "would mean something else there" in refused(session, ":save there/a.ta base")
    assert not (folder / "there" / "a.ta").exists()


# ---- What is typed


@examples(200)
@given(data=st.data(), recipe=recipes())
def test_pieces_are_the_grammar_s_words(data: st.DataObject, recipe: Any) -> None:
    lines, expression = recipe
    text = "\n".join([*lines, f"({data.draw(written(expression))})"])
    words = [str(token) for _, token in tokens(text) if token is not None]
    blank = ("blank", "line end", "comment")
    assert [piece.text for piece in pieces(text) if piece.sort not in blank] == words


@examples(200)
@given(st.text(alphabet=" \n\t(['\"#:,)]=aλ1.é\x00"))
def test_every_character_is_in_a_piece(text: str) -> None:
    found = list(pieces(text))
    assert "".join(piece.text for piece in found) == text
    starts = itertools.accumulate((len(piece.text) for piece in found), initial=0)
    assert [piece.start for piece in found] == list(starts)[:-1]


WORDS = st.sampled_from(
    [f":{command.name}" for command in COMMANDS if command.name not in ("merge", "plot", "save")]
    + ["base", "toxic", "x", "=", "=", "+", "-", "*", "/", "(", ")", "[", "]", ",", "0.5", "2", "f"]
    + ["--task", "--set", "--score", "s=0:1:1", "zoo.ta", "base.safetensors", '"', "'", "#", "λ"]
    + ['"*.w"', "0:2", "norm(", "checkpoint(", "task(", "use", "\n", "\x00", "~", "ramp(0, 1)"]
)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a folder for many sessions, and go there."""
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TASKALG_CACHE", "off")
        yield folder


@examples(300)
@given(texts=st.lists(st.lists(WORDS, max_size=9).map(" ".join), min_size=1, max_size=4))
def test_any_text_is_answered(zoo: Path, texts: list[str]) -> None:
    session = Session()
    session.start("zoo.ta")
    for text in texts:
        session.is_complete(text)
        session.offers(text)
        before = session.names
        if session.answer(text).error is not None:
            assert session.names == before
        assert session.answer("toxic").error is None or "toxic" in text or "base" in text


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("base", True),
        ("base + (a", False),
        ("base + (a\n+ b)", True),
        ('x["(', False),
        ('x["("]', True),
        ("mean(a, # )", False),
        ("a)", True),
        (":equal (a", True),
        ("", True),
    ],
)
def test_an_input_is_complete_when_its_brackets_are_closed(text: str, complete: bool) -> None:
    assert Session().is_complete(text) is complete
    if not text.startswith(":"):
        assert is_complete(text) is complete


# ---- Transcripts


def transcript(session: Session, inputs: Iterator[str]) -> str:
    """Write a conversation as a terminal shows it."""
    lines = []
    for text in inputs:
        first, *rest = text.split("\n")
        lines += [f">>> {first}", *(f"... {line}" for line in rest)]
        answer = session.answer(text)
        lines += answer.text.splitlines()
        lines += [""] if answer.text else []
    return _SECONDS.sub("0.0 s", "\n".join(lines).rstrip("\n") + "\n")


def inputs_of(text: str) -> Iterator[str]:
    """Yield what was typed in a transcript."""
    waiting: list[str] = []
    for line in [*text.splitlines(), ">>> "]:
        if line.startswith(">>> ") and waiting:
            yield "\n".join(waiting)
            waiting = []
        if line.startswith((">>> ", "... ")):
            waiting.append(line[4:])


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_a_session_says_what_its_transcript_says(folder: Path, path: Path) -> None:
    expected = path.read_text("utf-8")
    assert transcript(Session(), inputs_of(expected)) == expected


def test_every_command_is_in_a_transcript_or_a_test() -> None:
    texts = [path.read_text("utf-8") for path in (*TRANSCRIPTS, Path(__file__))]
    for command in COMMANDS:
        assert any(f":{command.name}" in text for text in texts), command.name


def test_a_help_text_fits_a_terminal_of_80_columns() -> None:
    session = Session()
    topics = ["", *(command.name for command in COMMANDS)]
    for text in (told(session, f":help {topic}") for topic in topics):
        assert max(map(len, text.splitlines())) <= 79
    narrow = told(Session(columns=lambda: 40), ":help").splitlines()
    assert max(map(len, narrow)) <= 40
    assert len(narrow) > 40  # the cells of a row below each other


def test_what_is_typed_out_of_habit_is_understood_unless_it_is_a_name() -> None:
    session = Session()
    assert told(session, "help()") == told(session, "help") == told(session, ":help")
    for text in ("exit", "quit", " exit() ", ":q", ":exit", ":quit"):
        assert session.answer(text).leaves
    told(session, "exit = 3")
    assert session.answer("exit") == Answer("3", session.answer("exit").value)
    assert "no checkpoint is named 'models'" in refused(session, "models")


def test_what_is_forgotten_is_not_the_last_sum_any_more(folder: Path) -> None:
    session = Session()
    session.start("zoo.ta")
    told(session, "fix = base - toxic")
    told(session, ":forget fix")
    assert "no sum was shown before" in refused(session, ":norm")
    told(session, "base - toxic")
    told(session, ":forget math")
    assert told(session, ":norm").startswith("norm(base - toxic) = ")


def test_a_task_without_a_base_is_told_at_the_start(folder: Path) -> None:
    toxic = bind(None, {"toxic": "toxic.safetensors"}, None, {})
    session = Session(Bindings({**toxic.values, **ta_bindings(s="0.5").values}))
    assert session.start().text.splitlines() == [
        "s loaded (headers only)",
        "the task vector 'toxic' has no base to be taken against",
        "  help: bind one: :load base PATH, or give the finished vector: :load toxic PATH",
    ]
    told(session, ":load base base.safetensors")
    told(session, "base - toxic")


def test_diff_says_what_the_command_line_says(folder: Path) -> None:
    session = Session()
    session.start("zoo.ta")
    result = CliRunner().invoke(main, ["diff", "base", "base + toxic", "-f", "zoo.ta", "--quiet"])
    assert told(session, ":diff base, base + toxic") + "\n" == result.stdout


def test_the_example_of_every_command_is_written_as_its_usage_says() -> None:
    for command in COMMANDS:
        assert command.example.startswith(f":{command.name}")
        assert command.usage.startswith(f":{command.name}")
        assert command.doc.endswith(".")


# ---- Evaluating


def test_merge_writes_the_sum_and_says_so(folder: Path) -> None:
    session = Session()
    session.start("zoo.ta")
    answer = session.answer(":merge base - 0.5*toxic out")
    assert isinstance(answer.value, ta.Report)
    assert answer.text.startswith("wrote out  3 tensors, 1 shard, 48 B\nread 96 B")
    merged = load_file(folder / "out" / "model.safetensors")
    assert merged["layers.0.w"].tolist() == [0.5, 2.0, 2.0, 4.0]
    assert "--overwrite" in refused(session, ":merge base out")
    assert "are expected" in refused(session, ":merge base")
    told(session, ':merge base + 0*toxic "out" --overwrite')
    merged = load_file(folder / "out" / "model.safetensors")
    assert merged["layers.0.w"].tolist() == VALUES["base"]


def test_a_sweep_scores_every_point_and_is_drawn(folder: Path) -> None:
    (folder / "score.py").write_text(SCORE, encoding="utf-8")
    session = Session()
    session.start("zoo.ta")
    assert "nothing was swept yet" in refused(session, ":plot sweep sweep.png")
    command = f'"{sys.executable}" score.py {{model}}'
    answer = session.answer(
        f":sweep base - strength*toxic --set strength=0:1:0.25 --score '{command}' "
        "--maximize -score --subject-to 'strength >= 0.5'"
    )
    assert isinstance(answer.value, Sweep), answer.text
    assert [point.scores["score"] for point in answer.value.points] == [1, 0.75, 0.5, 0.25, 0]
    assert answer.text.endswith("to keep it: strength = 1")
    assert told(session, "strength") == "0.4"
    assert "has no part" in refused(session, ":sweep base --set s=0:1:1 --score x")
    assert "needs values" in refused(session, ":sweep base --set s=0:1:1")
    assert "needs values" in refused(session, ":sweep base --score x")
    assert "has no value" in refused(session, ":sweep base --score")
    assert "given twice" in refused(session, ":sweep base --csv a --csv b")
    told(session, ":plot sweep sweep.png")
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    told(session, ":plot cosines cosines.svg")
    told(session, ":plot norms norms.svg toxic, math - toxic")


def test_the_manifest_has_the_recipe(folder: Path) -> None:
    session = Session()
    session.start("zoo.ta")
    told(session, ":merge base + forget(toxic, strength) out")
    text = (folder / "out" / "taskalg.json").read_text("utf-8")
    assert "forget(t, amount) = -amount*t" in text
    assert "math" not in text
    assert ta.verify(folder / "out", base="base.safetensors", models={"toxic": "toxic.safetensors"})


def test_an_answer_has_the_value_behind_it(folder: Path) -> None:
    session = Session()
    session.start("zoo.ta")
    recipe = session.answer("base + toxic").value
    assert isinstance(recipe, ta.Recipe)
    assert recipe == session.recipe("toxic + base")
    answers = list(session.answers("x = 1\n\n# nothing\ny = (x +\n1)\nnobody\nz = 1"))
    assert [answer.text for answer in answers[:2]] == ["x = 1", "y = 2"]
    assert answers[2].error is not None
    assert len(answers) == 3
    assert session.answer(":quit") == Answer("", leaves=True)
