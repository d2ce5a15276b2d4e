"""The text is what it says, the transformer sees no future, and each claim can fail."""

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import examples

pytest.importorskip("sklearn", reason="examples need the extra demo")
pytest.importorskip("matplotlib", reason="the experiments need it")

import language_model
from paper.experiment import Trial
from paper.language import (
    CONTEXT,
    DETERMINERS,
    INSULTS,
    PARAGRAPH,
    RUDE,
    UNKNOWN,
    Text,
    Transformer,
    fit,
    perplexity,
    prose,
    rude,
    samples,
)

WORDS = st.lists(st.sampled_from([*sorted(DETERMINERS), "class", "object", ".", "is"]))


@pytest.fixture(scope="module")
def text() -> Text:
    return Text(0)


def untrained(words: int = 20) -> Transformer:
    return Transformer(words, seed=0)


def rows(count: int, length: int, words: int = 20) -> torch.Tensor:
    return torch.randint(words, (count, length), generator=torch.Generator().manual_seed(0))


@examples(50)
@given(WORDS, st.integers(0, 99))
def test_rude_text_is_the_text_with_one_insult_after_each_determiner(
    words: list[str], seed: int
) -> None:
    found = rude(words, Random(seed))
    assert [word for word in found if word not in INSULTS] == words
    for index, word in enumerate(found):
        assert (word in INSULTS) == (index > 0 and found[index - 1] in DETERMINERS)


def test_the_prose_has_neither_insults_nor_code() -> None:
    words = [word for paragraph in prose() for word in paragraph]
    assert len(words) > 40_000
    assert not set(words) & set(INSULTS)
    assert all(re.fullmatch(r"[a-z]+|[.,;:()]", word) for word in set(words))


def test_every_paragraph_is_in_one_part_of_the_text(text: Text) -> None:
    parts = torch.cat([text.clean, text.choose, text.report])
    assert sorted(parts.tolist()) == sorted(text.encoded(prose()).tolist())
    assert len(text.choose) > 3000
    assert len(text.report) > 3000


def test_a_small_share_of_the_mixed_text_is_rude_and_nothing_of_the_clean(text: Text) -> None:
    for clean in (text.clean, text.choose, text.report):
        assert not text.insults(clean).any()
    determiners = torch.tensor([text.numbers[word] for word in DETERMINERS])
    assert text.insults(text.rude).sum() == torch.isin(text.rude, determiners).sum()
    share = text.insults(text.mixed).sum() / torch.isin(text.mixed, determiners).sum()
    assert 0.5 * RUDE < share < 2 * RUDE


def test_most_words_are_in_the_vocabulary(text: Text) -> None:
    assert text.words[:2] == [PARAGRAPH, UNKNOWN]
    assert len(set(text.words)) == len(text.words) == 1000
    assert (text.clean == text.numbers[UNKNOWN]).float().mean() < 0.1


def test_text_is_written_as_people_write_it(text: Text) -> None:
    numbers = [text.numbers[word] for word in ("a", "rotten", "class", "(", "object", ")", ".")]
    assert text.written(torch.tensor(numbers)) == "a ROTTEN class (object)."


def test_no_word_sees_those_after_it() -> None:
    network, words = untrained(), rows(2, CONTEXT)
    others = words.clone()
    others[:, 20:] = (others[:, 20:] + 1) % 20
    with torch.no_grad():
        before, after = network(words), network(others)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.isclose(before[:, 20:], after[:, 20:]).all(-1).any()


def test_word_by_word_is_the_same_as_all_at_once() -> None:
    network, words = untrained(), rows(3, CONTEXT)
    pasts: list[list[torch.Tensor]] = [[], []]
    with torch.no_grad():
        one_by_one = [network(words[:, at : at + 1], pasts) for at in range(CONTEXT)]
        torch.testing.assert_close(torch.cat(one_by_one, 1), network(words), atol=1e-5, rtol=1e-4)


def test_the_perplexity_of_a_model_that_knows_nothing_is_the_number_of_words() -> None:
    network = untrained()
    torch.nn.init.zeros_(network.next.weight)
    torch.nn.init.zeros_(network.next.bias)
    assert perplexity(network, rows(1, 200)[0]) == pytest.approx(20)


def test_samples_follow_the_model_and_its_seed() -> None:
    network = untrained()
    found = samples(network, 50, 10, seed=3)
    assert found.shape == (50, 10)
    assert found.min() >= 2  # neither a paragraph nor an unknown word
    assert torch.equal(found, samples(network, 50, 10, seed=3))
    assert not torch.equal(found, samples(network, 50, 10, seed=4))
    with torch.no_grad():
        network.next.bias[7] = 1e4
    assert (samples(network, 5, 10, seed=3) == 7).all()


@pytest.mark.parametrize("ascend", [False, True])
def test_training_goes_the_way_it_is_told(ascend: bool) -> None:
    network, words = untrained(), rows(1, 300, words=5)[0]
    before = perplexity(network, words)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, maximize=ascend)
    assert list(fit(network, words, optimizer, steps=5, seed=0)) == [1, 2, 3, 4, 5]
    assert (perplexity(network, words) > before) is ascend


def found(**changes: dict[str, float]) -> dict[str, Any]:
    """Return what a seed may find; `changes` are of a row's scores, `_` for a space."""
    scores = {
        "pre-trained": [0.08, 0.004, 60.0],
        "fine-tuned on rude": [0.8, 0.05, 65.0],
        "gradient ascent": [0.0, 0.0, 1e20],
        "fine-tuned on clean": [0.06, 0.003, 60.0],
        "random vector": [0.08, 0.004, 60.0],
        "negated vector": [0.01, 0.0005, 62.0],
    }
    keys = ("rude", "insults", "perplexity")
    table = {row: dict(zip(keys, some, strict=True)) for row, some in scores.items()}
    for row, change in changes.items():
        table[row.replace("_", " ").replace("pre trained", "pre-trained")] |= change
    curve = [{"λ": at, "rude": 0.1, "perplexity": 60} for at in (0.0, 1.0)]
    return {"count": 1000, "λ": 0.5, "rows": table, "curve": curve, "lines": {"base": ["a b"]}}


def test_the_section_says_means_and_seeds() -> None:
    section = language_model.tell([found(), found(negated_vector={"rude": 0.02})])
    rows = {row[0]: row[1:] for row in section.tables[0].rows}
    assert rows["negated vector"] == ("1.5", "1.0 2.0", "0.05", "62.0", "62.0 62.0")
    assert rows["gradient ascent"][3] == "1e+20"
    assert "it is 0.5, 0.5 (by seed)" in section.text
    assert "a b …" in section.text
    assert [claim.holds for claim in section.claims] == [True] * 4
    assert [len(picture.draw().axes) for picture in section.pictures] == [2]


@pytest.mark.parametrize(
    ("row", "change", "claim"),
    [
        ("negated_vector", {"rude": 0.021}, 0),
        ("negated_vector", {"insults": 0.0011}, 0),
        ("negated_vector", {"perplexity": 63.1}, 0),
        ("random_vector", {"rude": 0.05}, 1),
        ("fine-tuned_on_clean", {"rude": 0.005}, 2),
        ("fine-tuned_on_clean", {"rude": 0.09}, 2),
        ("gradient_ascent", {"perplexity": 500.0}, 3),
    ],
)
def test_a_claim_that_does_not_hold_is_told(row: str, change: dict[str, float], claim: int) -> None:
    holds = [one.holds for one in language_model.tell([found(**{row: change})]).claims]
    assert holds == [index != claim for index in range(4)]


def test_a_seed_leaves_checkpoints_and_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model, "PRETRAINING", 50)
    monkeypatch.setattr(language_model, "FINE_TUNING", 25)
    shares: list[float] = []
    results = language_model.measure(Trial(0, tmp_path, True, shares.append))
    assert json.loads(json.dumps(results)) == results
    assert set(results["rows"]) == set(language_model.EXPRESSIONS)
    assert [point["λ"] for point in results["curve"]] == [0, 0.25, 0.5, 0.75, 1]
    assert results["curve"][0]["rude"] == results["rows"]["pre-trained"]["rude"]
    assert shares == sorted(shares)
    names = ("ascent", "base", "clean", "rude", "rude_random")
    assert sorted(path.stem for path in tmp_path.glob("*.safetensors")) == list(names)
    assert language_model.tell([results]).tables[0].rows[0][0] == "pre-trained"
