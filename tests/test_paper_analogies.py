"""Analogies on digits: domains are what they say, nobody peeks, and a table counts right."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import examples

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
pytest.importorskip("matplotlib", reason="the experiments need it")

import analogies
from paper.domains import (
    DOMAINS,
    PARTNERS,
    Domains,
    Setup,
    placed,
    thick,
    thin,
)
from paper.experiment import Trial

Array = np.ndarray[Any, Any]


def pictures(seed: int) -> Any:
    return torch.rand(3, 64, generator=torch.Generator().manual_seed(seed))


def square(seen: Any) -> Array:
    return np.asarray(seen.reshape(-1, 8, 8))


seeds = st.integers(0, 1000)


# ---- Domains


@given(seeds, st.integers(-8, 8))
@examples(20)
def test_whole_pixels_are_shifted(seed: int, right: int) -> None:
    expected = np.zeros((3, 8, 8), np.float32)
    before = square(pictures(seed))
    for x in range(8):
        if 0 <= x - right < 8:
            expected[:, :, x] = before[:, :, x - right]
    assert np.allclose(square(placed(pictures(seed), right=right)), expected, atol=1e-5)


@given(seeds)
@examples(20)
def test_half_a_pixel_is_the_mean_of_two(seed: int) -> None:
    both = [square(placed(pictures(seed), right=right)) for right in (0, 1)]
    assert np.allclose(square(DOMAINS["right"](pictures(seed))), sum(both) / 2, atol=1e-5)


@given(seeds, st.integers(-5, 5))
@examples(20)
def test_quarter_turns_are_clockwise(seed: int, quarters: int) -> None:
    expected = np.rot90(square(pictures(seed)), -quarters, (1, 2))
    assert np.allclose(square(placed(pictures(seed), turned=90 * quarters)), expected, atol=1e-5)


@given(seeds, st.floats(-2, 2), st.floats(-180, 180))
@examples(20)
def test_a_mirror_image_moves_the_other_way(seed: int, right: float, turned: float) -> None:
    image = pictures(seed)
    mirrored = image.view(-1, 8, 8).flip(2).reshape(-1, 64)
    seen = square(placed(mirrored, right=-right, turned=-turned))
    assert np.allclose(
        seen, square(placed(image, right=right, turned=turned))[..., ::-1], atol=1e-4
    )


@given(seeds)
@examples(20)
def test_a_pen_is_thicker_or_thinner(seed: int) -> None:
    image = pictures(seed)
    before = np.pad(square(image), ((0, 0), (0, 1), (0, 1)), mode="edge")
    four = np.stack([before[:, y : y + 8, x : x + 8] for y in (0, 1) for x in (0, 1)])
    assert np.array_equal(square(thick(image)), four.max(0))
    assert np.array_equal(square(thin(image)), four.min(0))


@given(seeds)
@examples(20)
def test_light_falls_on_one_half(seed: int) -> None:
    image, upper, lower = pictures(seed), slice(0, 4), slice(4, 8)
    for domain, lit, dark in (("top", upper, lower), ("bottom", lower, upper)):
        seen, before = square(DOMAINS[domain](image)), square(image)
        assert np.array_equal(seen[:, lit], before[:, lit])
        assert np.allclose(seen[:, dark], before[:, dark] / 5)


def test_every_domain_has_one_partner() -> None:
    assert sorted(place for pair in PARTNERS for place in pair) == sorted(DOMAINS)
    image = pictures(0)
    assert len({change(image).numpy().tobytes() for change in DOMAINS.values()}) == len(DOMAINS)


# ---- Who sees what


@pytest.fixture
def domains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Domains:
    monkeypatch.setattr("paper.domains.STEPS", 5)
    return Domains(0, tmp_path)


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_to_be_sure_needs_no_answers(domains: Domains) -> None:
    domains.make_sure("top")
    domains.tell_answers("parity", "top")
    before = {name: domains.zoo.load(name) for name in ("sure_top", "parity_top")}
    for answers in domains.digits.answers.values():
        answers.zero_()
    domains.make_sure("top")
    domains.tell_answers("parity", "top")
    assert same(domains.zoo.load("sure_top"), before["sure_top"])
    assert not same(domains.zoo.load("parity_top"), before["parity_top"])
    assert not same(domains.zoo.load("sure_top"), domains.zoo.load("base"))


def test_guesses_get_surer_and_better(domains: Domains, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paper.domains.STEPS", 40)
    domains.make_sure("top")
    before, after = domains.share_named("top")
    assert after > before + 0.05


@pytest.fixture
def setup(domains: Domains) -> Setup:
    for domain in ("left", "right"):
        domains.make_sure(domain)
        domains.tell_answers("holes", domain)
    return Setup("holes", "left", "right")


def test_what_is_reported_chooses_nothing(
    domains: Domains, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analogies, "GRID", {"λ1": "0:8:2", "λ2": "-4:4:2"})
    analogy = analogies.MODELS["analogy"]
    before = analogies.asked(domains, setup, analogy)
    answers = domains.digits.answers["holes"]
    answers[domains.digits.report] = 1 - answers[domains.digits.report]
    after = analogies.asked(domains, setup, analogy)
    assert after[0] == pytest.approx(1 - before[0])
    assert after[1] == before[1]
    answers[domains.digits.choose] = 1 - answers[domains.digits.choose]
    assert analogies.asked(domains, setup, analogy) != after


def test_the_analogy_is_the_formula(
    domains: Domains, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analogies, "GRID", {"λ1": "0.75", "λ2": "-1.25"})
    seen: list[Any] = []

    def accuracy(weights: Any, *place: Any) -> dict[str, float]:
        seen.append({name: tensor.clone() for name, tensor in weights.items()})
        return {"holes": 0.5}

    monkeypatch.setattr(domains, "accuracy", accuracy)
    analogies.asked(domains, setup, analogies.MODELS["analogy"])
    base, a, b, c = (
        {key: value.double() for key, value in domains.zoo.load(name).items()}
        for name in ("base", "sure_left", "sure_right", "holes_left")
    )
    for key, tensor in seen[-1].items():
        expected = base[key] + 0.75 * (c[key] - base[key]) - 1.25 * (b[key] - a[key])
        assert torch.equal(tensor, expected.float())


# ---- What is told


def told(*accuracies: dict[str, float]) -> dict[str, Any]:
    """Make up what a seed found, with the accuracy of each model in two set-ups."""
    setups = [str(Setup("holes", *way)) for way in (("left", "right"), ("right", "left"))]
    models = {name: [one.get(name, 0.5) for one in accuracies] for name in analogies.MODELS}
    rest = {"λ1": [1.0, 1.0], "λ2": [0.5, 0.5], "cosine": [0.1, 0.1], "named": [(0.5, 0.75)]}
    return {"setup": setups, **models, **rest}


def test_wins_are_counted() -> None:
    good = {"auxiliary": 0.6, "analogy": 0.7, "oracle": 0.8}
    bad = {"auxiliary": 0.65, "analogy": 0.6, "oracle": 0.7}
    section = analogies.tell([told(good, bad), told(good, good), told(good, bad)])
    models, setups = section.tables
    assert [row[-2] for row in setups.rows] == ["3 of 3", "1 of 3"]
    assert [row[0] for row in setups.rows] == ["holes, left to right", "holes, right to left"]
    assert dict(zip(analogies.MODELS, (row[-1] for row in models.rows), strict=True)) == {
        **dict.fromkeys(analogies.MODELS, "0 of 2"),
        "analogy": "1 of 2",
        "oracle": "2 of 2",
    }
    assert [claim.holds for claim in section.claims] == [False, True, True]
    assert "in 1 of 2 set-ups, and in 4 of 6 runs" in section.claims[0].here
    assert "it was 5.0 points behind, in the others 20.0" in section.remarks
    assert "(none)" in section.remarks  # cosines that are all the same go with nothing


def test_claims_hold_or_not() -> None:
    good = {"auxiliary": 0.6, "analogy": 0.7, "oracle": 0.8}
    section = analogies.tell([told(good, good)])
    assert [claim.holds for claim in section.claims] == [True, True, True]
    assert "gained nothing" not in section.remarks
    equal = {"auxiliary": 0.6, "analogy": 0.6, "oracle": 0.8}
    section = analogies.tell([told(equal, equal)])
    assert [claim.holds for claim in section.claims] == [False, False, True]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[float]]:
    shares: list[float] = []
    trial = Trial(0, tmp_path_factory.mktemp("seed"), True, shares.append)
    return analogies.measure(trial), shares


def test_a_seed_is_measured(found: tuple[Any, list[float]]) -> None:
    results, shares = found
    assert json.loads(json.dumps(results))["analogy"] == results["analogy"]
    assert shares == sorted(shares) and shares[-1] == 1
    models = ("auxiliary", "analogy", "oracle")
    auxiliary, analogy, oracle = (sum(results[model]) for model in models)
    assert auxiliary < analogy < oracle
    assert all(0 < cosine < 0.5 for cosine in results["cosine"])


def test_pictures_are_drawn(found: tuple[Any, list[float]]) -> None:
    arrows, reasons = (picture.draw() for picture in analogies.tell([found[0]]).pictures)
    assert len(arrows.axes[0].get_yticklabels()) == len(found[0]["setup"])
    assert [axes.get_xlabel() for axes in reasons.axes] == ["oracle - auxiliary", analogies.COSINE]
