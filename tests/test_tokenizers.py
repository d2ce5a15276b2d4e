"""Warnings: tokenizers that read the same ids as other tokens, chat templates the donor lacks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import taskalg
from taskalg import Recipe
from tests import oracle
from tests.test_execute import floats

Files = Mapping[str, Any]  # what lies beside the weights: JSON, text or bytes
SAME: Files = {"tokenizer.json": {"model": {"vocab": {"a": 0, "b": 1}}}}
TEMPLATE: Files = {"chat_template.jinja": "{{ messages }}"}


def recipe(folder: Path, text: str, **sides: Files) -> Recipe:
    """Write models with files beside their weights, and compile an expression of them."""
    folder.mkdir(exist_ok=True)
    for key, beside in sides.items():
        oracle.write_folder(folder / key, [{"w": floats("F32", 1)}])
        for name, content in beside.items():
            if isinstance(content, dict | list):
                content = json.dumps(content)
            path = folder / key / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return taskalg.compile(text, models={key: folder / key for key in sides})


def warned(folder: Path, base: Files, ft: Files) -> list[str]:
    made = recipe(folder, "(base + ft)/2", base=base, ft=ft)
    found: list[str] = made.explain(folder / "out").to_json()["warnings"]
    rows = str(made.explain(folder / "out")).split("\n")
    assert [row[16:] for row in rows if row.startswith("warning ")] == found
    return found


def bpe(*tokens: str, added: Files | None = None) -> Files:
    """Return a `tokenizer.json` with these tokens as 0, 1, 2 … and others after them."""
    more = [{"content": token, "id": number} for token, number in (added or {}).items()]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return {"tokenizer.json": {"model": {"vocab": vocabulary}, "added_tokens": more}}


DIFFERENT: list[tuple[Files, Files, str]] = [
    (bpe("a", "b"), bpe("a", "c"), "1 of 2 ids: 1 is 'b' in one and 'c' in the other"),
    (bpe("a", "b"), bpe("b", "a"), "2 of 2 ids: 0 is 'a' in one and 'b' in the other"),
    (
        bpe("a", "b", added={"<s>": 2}),
        bpe("a", "b", added={"</s>": 2}),
        "1 of 3 ids: 2 is '<s>' in one and '</s>' in the other",
    ),
    (
        {"tokenizer.json": {"model": {"vocab": [["a", 0.0], ["b", -1.5]]}}},
        {"tokenizer.json": {"model": {"vocab": [["a", 0.0], ["c", -1.5]]}}},
        "1 of 2 ids: 1 is 'b' in one and 'c' in the other",
    ),
    (
        {"vocab.json": {"a": 0}},
        {"vocab.json": {"b": 0}},
        "1 of 1 ids: 0 is 'a' in one and 'b' in the other",
    ),
    (
        {"vocab.txt": "a\nb\n"},
        {"vocab.txt": "a\nc"},
        "1 of 2 ids: 1 is 'b' in one and 'c' in the other",
    ),
    (
        bpe("a", "\x1b[31m"),
        bpe("a", "b"),
        "1 of 2 ids: 1 is '\\x1b[31m' in one and 'b' in the other",
    ),
]


@pytest.mark.parametrize(("base", "ft", "expected"), DIFFERENT)
def test_ids_that_stand_for_other_tokens_are_told(
    tmp_path: Path, base: Files, ft: Files, expected: str
) -> None:
    assert warned(tmp_path, base, ft) == [f"the tokenizers of base and ft differ on {expected}"]


ALIKE: list[tuple[Files, Files]] = [
    (SAME, SAME),
    (SAME, {"tokenizer.json": json.dumps(SAME["tokenizer.json"], indent=2)}),
    (bpe("a", "b"), bpe("a", "b", "c")),  # one grew
    (bpe("a", "b", "c"), bpe("a", "b")),
    (bpe("a", "b", "<s>"), bpe("a", "b", added={"<s>": 2})),
    ({"vocab.txt": "a\nb\n"}, {"vocab.txt": "a\nb"}),
    (SAME, {}),
    (SAME, {"vocab.json": {"z": 0}}),  # nobody can tell
    ({}, {}),
    (SAME, {"tokenizer.json": "{"}),
    (SAME, {"tokenizer.json": b"\xff\xfe"}),
    (SAME, {"tokenizer.json": "[" * 100_000}),
    (SAME, {"tokenizer.json": []}),
    (bpe("a", "vocab", '"vocab": {'), bpe("a", "vocab", '"vocab": {', "added_tokens")),
    (SAME, {"tokenizer.json": {"model": {"vocab": {"z": "0", "y": None}}}}),
    (SAME, {"tokenizer.json": {"model": {"vocab": [[["z"]], "y", [], 3]}}}),
    (SAME, {"tokenizer.json": {"model": 3, "added_tokens": {"z": 0}}}),
    (
        SAME,
        {"tokenizer.json": {"added_tokens": [3, {"content": ["z"], "id": 0}, {"content": "z"}]}},
    ),
]


@pytest.mark.parametrize(("base", "ft"), ALIKE)
def test_tokenizers_that_agree_or_cannot_be_read_are_not_spoken_of(
    tmp_path: Path, base: Files, ft: Files
) -> None:
    assert warned(tmp_path, base, ft) == []


TEMPLATES: list[Files] = [
    TEMPLATE,
    {"additional_chat_templates/tool.jinja": "{{ tools }}"},
    {"tokenizer_config.json": {"chat_template": "{{ messages }}"}},
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_chat_template_that_the_donor_lacks_is_told(tmp_path: Path, template: Files) -> None:
    expected = "ft has a chat template, base has none: the output will have none"
    assert warned(tmp_path / "a", {}, template) == [expected]
    assert warned(tmp_path / "b", {"tokenizer_config.json": {"eos": 1}}, template) == [expected]
    assert warned(tmp_path / "c", TEMPLATE, template) == []
    assert warned(tmp_path / "d", template, {}) == []


def test_a_template_matters_only_where_side_files_go(tmp_path: Path) -> None:
    made = recipe(tmp_path, "(base + ft)/2", base=SAME, ft={**bpe("z"), **TEMPLATE})
    assert len(made.explain(tmp_path / "out").to_json()["warnings"]) == 2
    (only,) = made.explain(tmp_path / "out.safetensors").to_json()["warnings"]
    assert only.startswith("the tokenizers")


def test_only_inputs_that_are_read_are_looked_at(tmp_path: Path) -> None:
    other = {**bpe("z"), **TEMPLATE}
    made = recipe(tmp_path, "base + (ft - ft)", base=SAME, ft=other)
    assert made.explain(tmp_path / "out").to_json()["warnings"] == []


def test_a_run_notes_what_explain_warns_of(tmp_path: Path) -> None:
    made = recipe(tmp_path, "(base + ft)/2", base=SAME, ft={**bpe("z"), **TEMPLATE})
    expected = made.explain(tmp_path / "out").to_json()["warnings"]
    assert list(made.save(tmp_path / "out").notes) == expected
    assert len(expected) == 2


def test_a_tokenizer_too_large_to_be_one_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskalg.output.tokenizers.LARGEST_TOKENIZER", 10)
    assert warned(tmp_path, SAME, bpe("z")) == []


def test_equal_bytes_are_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr("taskalg.output.tokenizers._vocabulary", refuse)
    assert warned(tmp_path, SAME, SAME) == []
    with pytest.raises(AssertionError, match="parsed"):
        warned(tmp_path / "other", SAME, bpe("z"))
