"""Pictures: what is written and where, the colors, and that nothing lies over something else."""

import itertools
import math
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray

from taskalg.errors import OutputError, UsageError
from taskalg.pictures.canvas import check_picture, ink_on, number_text, save_figure, shown
from taskalg.pictures.cosines import cosines_figure
from taskalg.pictures.heatmap import thinned
from taskalg.pictures.lines import COLORS
from taskalg.pictures.norms import norms_figure
from taskalg.pictures.sweeps import sweep_figure
from taskalg.sweeping.goal import choose, read_goal
from taskalg.sweeping.values import Point, Sweep

ODD = ("a_name_that_is_much_longer_than_anyone_would_like_it", "a$b$c", "λ", "中文", "<b>")


@dataclass(frozen=True)
class Part:
    name: str
    norms: NDArray[Any]


@dataclass(frozen=True)
class Geometry:
    names: tuple[str, ...]
    cosines: NDArray[Any] = field(default_factory=lambda: np.eye(1))
    parts: tuple[Part, ...] = ()

    def by(self, level: str) -> tuple[Part, ...]:
        return self.parts


def angles(count: int, *, zero: bool = False) -> Geometry:
    random = np.random.default_rng(count)
    vectors = random.normal(size=(count, 3 * count))
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    cosines = np.clip(vectors @ vectors.T, -1, 1)
    if zero:
        cosines[0] = cosines[:, 0] = np.nan
    names = [*ODD, *(f"vector_{i}" for i in range(count))][:count]
    return Geometry(tuple(names), cosines)


def layers(stack: str, count: int) -> list[str]:
    return [f"{stack}.{i}" for i in range(count)]


def lengths(names: Sequence[str], parts: Sequence[str], *, decades: float = 0) -> Geometry:
    random = np.random.default_rng(1)
    return Geometry(
        tuple(names),
        parts=tuple(
            Part(part, 10 ** random.uniform(0, 0.3 + decades, size=len(names))) for part in parts
        ),
    )


def swept(
    grid: Sequence[Mapping[str, Fraction]],
    scores: Sequence[Mapping[str, float]],
    base: Mapping[str, float] | None = None,
    maximize: str | None = None,
    subject_to: Sequence[str] = (),
) -> Sweep:
    points = tuple(Point(v, s) for v, s in zip(grid, scores, strict=True))
    goal = read_goal(maximize, None, subject_to)
    chosen, nearest = choose(points, base or {}, goal)
    names = tuple(grid[0])
    return Sweep(names, points, base or {}, chosen, nearest, maximize, None, tuple(subject_to))


def line(*names: str, count: int = 21) -> list[dict[str, Fraction]]:
    return [dict.fromkeys(names, Fraction(i, 20)) for i in range(count)]


def plane(*counts: int) -> list[dict[str, Fraction]]:
    every = itertools.product(*(range(count) for count in counts))
    return [{f"s{k}": Fraction(i, 10) for k, i in enumerate(values)} for values in every]


def negation(count: int = 21) -> Sweep:
    grid = line("λ", count=count)
    scores = [
        {"target": 0.1 + 0.8 * float(v["λ"]), "control": 0.9 - 0.1 * float(v["λ"]) ** 2}
        for v in grid
    ]
    base = {"target": 0.1, "control": 0.9}
    return swept(grid, scores, base, "target", ["control >= 0.95*base.control"])


def flat(grid: Sequence[Mapping[str, Fraction]], count: int = 1) -> Sweep:
    return swept(grid, [{f"key_{i}": 0.5 + i * 100 for i in range(count)}] * len(grid))


SHORT, LONG = ("a", "b"), tuple(f"{name}_{i}" for i in range(8) for name in ODD)
STACKS = [*layers("encoder.block", 24), *layers("decoder.block", 6), "shared", "lm_head.weight"]
FIGURES: dict[str, Callable[[], Figure]] = {
    **{
        f"cosines of {count}": partial(cosines_figure, angles(count))
        for count in (1, 2, 5, 8, 20, 40)
    },
    "cosines of zero": lambda: cosines_figure(angles(6, zero=True)),
    "norms of one": lambda: norms_figure(lengths(["toxic"], layers("h", 12))),
    "norms of stacks": lambda: norms_figure(lengths(ODD, STACKS)),
    "norms of many": lambda: norms_figure(lengths(LONG, [*layers("h", 12), "head"])),
    "norms of depth": lambda: norms_figure(lengths(SHORT, layers("h", 100), decades=5)),
    "norms of one layer": lambda: norms_figure(lengths(SHORT, ["h.0"])),
    "norms of no layer": lambda: norms_figure(lengths(SHORT, ["wte", "head"])),
    "norms of long names": lambda: norms_figure(lengths(SHORT, ["h.0", *(f"x{n}" for n in LONG)])),
    "norms of modules": lambda: norms_figure(lengths(ODD, layers("h", 50)), by="module"),
    "norms of one tensor": lambda: norms_figure(lengths(SHORT, ["h.0.w"]), by="tensor"),
    "curves": lambda: sweep_figure(negation()),
    "curves of many points": lambda: sweep_figure(negation(400)),
    "curves of one point": lambda: sweep_figure(flat(line("λ", count=1))),
    "curves of many keys": lambda: sweep_figure(flat(line("λ"), 12)),
    "curves of equal scalars": lambda: sweep_figure(flat(line("a", "b"))),
    "curves of long names": lambda: sweep_figure(flat(line(*ODD[:2]))),
    "grid": lambda: sweep_figure(flat(plane(5, 3))),
    "grid of many": lambda: sweep_figure(flat(plane(81, 41))),
    "grid of a row": lambda: sweep_figure(flat(plane(2, 31))),
    "grid of three": lambda: sweep_figure(flat(plane(5, 3, 2))),
}


# ---- Laws


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_leaves_the_picture_and_no_words_touch(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    figure = FIGURES[name]()
    assert max(figure.get_size_inches()) < 15
    boxes = [(text.get_text(), corners(text)) for text in texts(figure)]
    assert boxes
    assert not any(text.get_parse_math() for text in texts(figure))  # a name may have dollars
    width, height = figure.bbox.size
    for words, box in boxes:
        assert box.min() >= -0.5, words
        assert box[:, 0].max() <= width + 0.5, words
        assert box[:, 1].max() <= height + 0.5, words
    for (one, first), (other, second) in itertools.combinations(boxes, 2):
        assert not overlap(first, second), f"{one!r} over {other!r}"
    assert not caplog.records  # such as a font that is not there


@pytest.mark.parametrize("name", FIGURES)
def test_panels_do_not_touch(name: str) -> None:
    figure = FIGURES[name]()
    boxes = [axes.get_window_extent() for axes in figure.axes]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def texts(figure: Figure) -> list[Text]:
    """Return all texts that are drawn, after drawing them."""
    figure.canvas.draw()
    unseen = {id(label) for axes in figure.axes for label in beyond(axes)}
    found: list[Any] = figure.findobj(Text)
    return [t for t in found if t.get_text() and t.get_visible() and id(t) not in unseen]


def beyond(axes: Axes) -> Iterator[Text]:
    """Yield the labels of ticks beyond the view: matplotlib keeps them, and does not draw them."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.majorTicks, *axis.minorTicks):
            if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                yield from (tick.label1, tick.label2)


def corners(text: Text) -> NDArray[Any]:
    """Return the four corners of a text, turned as it is [pixels]."""
    angle = text.get_rotation()
    if angle % 90 == 0:
        box = text.get_window_extent()
        return np.array([(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)])
    text.set_rotation(0)
    box = text.get_window_extent()
    text.set_rotation(angle)
    turn = np.array(
        [[math.cos(a := math.radians(angle)), math.sin(a)], [-math.sin(a), math.cos(a)]]
    )
    anchor = text.get_transform().transform(text.get_position())
    flat = np.array([(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)])
    turned: NDArray[Any] = (flat - anchor) @ turn + anchor
    return turned


def overlap(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Tell whether two rectangles share more than half a pixel (separating axes)."""
    for box in (a, b):
        for side in (box[1] - box[0], box[3] - box[0]):
            axis = side / max(np.linalg.norm(side), 1e-9)
            p, q = a @ axis, b @ axis
            if p.max() <= q.min() + 0.5 or q.max() <= p.min() + 0.5:
                return False
    return True


def test_the_guard_on_overlap_can_fail() -> None:
    box = np.array([(0, 0), (4, 0), (4, 1), (0, 1)], dtype=float)
    turned = box @ np.array([[1, 1], [-1, 1]]) / math.sqrt(2)
    assert overlap(box, box + 0.2)
    assert not overlap(box, box + 2)
    assert overlap(box, turned)
    assert not overlap(turned, turned + np.array([2, 0]))
    figure = Figure()
    figure.text(0.5, 0.5, "words")
    figure.text(0.5, 0.5, "others")
    first, second = map(corners, texts(figure))
    assert overlap(first, second)


# ---- Cosines


def cells(axes: Axes) -> dict[tuple[int, int], Text]:
    found = {}
    for text in axes.texts:
        x, y = text.get_position()
        found[int(y), int(x)] = text
    return found


def test_cosines_stand_in_their_cells_and_zero_is_white() -> None:
    cosines = np.array([[1, -0.004, -0.5], [-0.004, 1, 0.25], [-0.5, 0.25, 1]])
    figure = cosines_figure(Geometry(("one", "two", "λ"), cosines))
    axes = figure.axes[0]
    written = {place: text.get_text() for place, text in cells(axes).items()}
    assert written[0, 0] == "1.00"
    assert written[0, 1] == "0.00"
    assert written[2, 0] == "−0.50"
    assert [t.get_text() for t in axes.get_yticklabels()] == ["one", "two", "λ"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["one", "two", "λ"]
    (mesh,) = axes.collections
    assert mesh.get_clim() == (-1, 1)
    red, white, blue = mesh.to_rgba(np.array([1.0, 0.0, -1.0]))
    assert red[0] > 2 * red[2]
    assert min(white) > 0.95
    assert blue[2] > 2 * blue[0]
    assert axes.get_ylim() == (3, 0)  # the first row at the top


def test_cells_are_square() -> None:
    for count in (1, 5, 40):
        box = cosines_figure(angles(count)).axes[0].get_window_extent()
        assert box.width == pytest.approx(box.height)


def test_ink_has_contrast_on_its_cell() -> None:
    figure = cosines_figure(angles(12))
    (mesh,) = figure.axes[0].collections
    values = angles(12).cosines
    for (row, column), text in cells(figure.axes[0]).items():
        paper = luminance(mesh.to_rgba(values)[row, column])
        ink = luminance(to_rgba(text.get_color()))
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 4.5


def luminance(color: Sequence[float]) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
    return float(np.dot(parts, [0.2126, 0.7152, 0.0722]))


def test_ink_is_the_darker_or_the_brighter() -> None:
    assert luminance(to_rgba(ink_on((1, 1, 1)))) < 0.1
    assert luminance(to_rgba(ink_on((0.4, 0, 0.1)))) == 1


def test_numbers_are_written_only_where_they_can_be_read() -> None:
    assert len(cells(cosines_figure(angles(20)).axes[0])) == 400
    assert cells(cosines_figure(angles(40)).axes[0]) == {}


def test_a_vector_of_zeros_has_gray_cells() -> None:
    axes = cosines_figure(angles(6, zero=True)).axes[0]
    (mesh,) = axes.collections
    gray = mesh.to_rgba(np.ma.masked_invalid([np.nan]))[0]
    assert gray[0] == gray[1] == gray[2] < 0.9
    assert cells(axes)[0, 3].get_text() == "–"


# ---- Norms


def test_a_line_per_vector_and_a_panel_per_stack() -> None:
    geometry = lengths(["toxic", "math"], STACKS)
    panels = norms_figure(geometry).axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "encoder.block",
        "decoder.block",
        "",
    ]
    for index, color in enumerate(COLORS[:2]):
        drawn = panels[1].lines[index]
        assert to_rgba(drawn.get_color()) == to_rgba(color)
        assert xs(drawn) == list(range(6))
        assert ys(drawn) == [part.norms[index] for part in geometry.parts[24:30]]
        assert panels[2].lines[index].get_linestyle() == "None"
    assert len({axes.get_ylim() for axes in panels}) == 1
    assert panels[0].get_ylim()[0] == 0
    assert legend(panels[2]) == ["toxic", "math"]


def xs(line: Line2D) -> list[float]:
    return list(np.asarray(line.get_xdata(), dtype=float).tolist())


def ys(line: Line2D) -> list[float]:
    return list(np.asarray(line.get_ydata(), dtype=float).tolist())


def legend(axes: Axes) -> list[str]:
    found = axes.get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def test_layers_are_in_order_whatever_the_parts_are() -> None:
    geometry = lengths(["a"], ["h.10", "h.2", "h.1"])
    (axes,) = norms_figure(geometry).axes
    assert xs(axes.lines[0]) == [1, 2, 10]
    assert ys(axes.lines[0]) == [part.norms[0] for part in geometry.parts[::-1]]
    assert legend(axes) == []


@pytest.mark.parametrize(
    ("norms", "scale"),
    [
        ([1.0, 99.0], "linear"),
        ([1.0, 101.0], "log"),
        ([0.0, 1.0, 101.0], "symlog"),
        ([0.0, 1.0, 99.0], "linear"),
        ([0.0, 0.0], "linear"),
        ([math.nan, 1.0], "linear"),
    ],
)
def test_the_scale_is_logarithmic_when_needed(norms: list[float], scale: str) -> None:
    parts = tuple(Part(f"h.{i}", np.array([norm])) for i, norm in enumerate(norms))
    figure = norms_figure(Geometry(("a",), parts=parts))
    assert figure.axes[0].get_yscale() == scale
    assert not any("$" in text.get_text() for text in texts(figure))


def test_many_vectors_can_still_be_told_apart() -> None:
    axes = norms_figure(lengths(LONG, layers("h", 3))).axes[0]
    looks = [(line.get_color(), repr(line._dash_pattern)) for line in axes.lines]  # type: ignore[attr-defined]
    assert len(set(looks)) == len(LONG) == 40


def test_of_many_parts_the_largest_are_drawn_and_it_is_said() -> None:
    parts = [Part(f"t{i}", np.array([float(i)])) for i in range(60)]
    figure = norms_figure(Geometry(("a",), parts=tuple(parts)), by="tensor")
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == [f"t{i}" for i in range(20, 60)]
    assert "the 40 largest of 60" in [text.get_text() for text in figure.texts]


# ---- Sweeps


def test_a_sweep_has_curves_limits_the_base_and_the_choice() -> None:
    sweep = negation()
    figure = sweep_figure(sweep)
    (axes,) = figure.axes
    assert legend(axes) == [
        "target",
        "chosen: 0.62",
        "base: 0.1",
        "control",
        "chosen: 0.858",
        "base: 0.9",
        "limit: 0.855",
    ]
    flat_lines = {
        (line.get_linestyle(), round(ys(line)[0], 6)) for line in axes.lines if xs(line) == [0, 1]
    }
    assert flat_lines == {(":", 0.1), (":", 0.9), ("--", 0.855)}
    assert "λ = 0.65" in [text.get_text() for text in axes.texts]
    words = [text.get_text() for text in figure.texts]
    assert words[0] == "Sweep of λ"
    assert "chosen: λ = 0.65, the largest target with control >= 0.95*base.control" in words
    assert axes.get_xlabel() == "λ"


def test_points_that_do_not_meet_the_conditions_are_hollow() -> None:
    sweep = negation()
    (axes,) = sweep_figure(sweep).axes
    met = [point.scores["control"] >= 0.855 for point in sweep.points]
    for dots, color in zip(axes.collections, COLORS, strict=False):
        faces = [np.allclose(face, to_rgba(color)) for face in np.asarray(dots.get_facecolor())]
        assert faces == met
    assert not all(met)


def test_a_scalar_that_is_maximized_has_no_curve_over_itself() -> None:
    grid = line("λ")
    scores = [{"acc": 0.9 - float(v["λ"]) / 5} for v in grid]
    (axes,) = sweep_figure(swept(grid, scores, maximize="λ", subject_to=["acc >= 0.8"])).axes
    assert legend(axes) == ["acc", "chosen: 0.8", "limit: 0.8"]


def test_keys_of_other_sizes_have_their_own_panel() -> None:
    grid = line("λ")
    values = [float(v["λ"]) for v in grid]
    scores = [{"acc": 0.9 - v / 5, "f1": 0.8 - v / 4, "ppl": 15 + 9 * v} for v in values]
    upper, lower = sweep_figure(swept(grid, scores)).axes
    assert legend(upper) == ["acc", "f1"]
    assert legend(lower) == ["ppl"]
    assert upper.get_xlim() == lower.get_xlim()
    assert (upper.get_xlabel(), lower.get_xlabel()) == ("", "λ")


def test_a_formula_that_is_maximized_has_a_curve() -> None:
    grid = line("λ")
    scores = [{"a": float(v["λ"]), "b": 1 - float(v["λ"])} for v in grid]
    (axes,) = sweep_figure(swept(grid, scores, maximize="a*b")).axes
    assert legend(axes) == ["a*b", "chosen: 0.25", "a", "chosen: 0.5", "b", "chosen: 0.5"]


def test_keys_that_are_too_many_are_named() -> None:
    figure = sweep_figure(flat(line("λ"), 12))
    words = " ".join(text.get_text() for text in figure.texts)
    assert [len(legend(axes)) for axes in figure.axes] == [1] * 5
    assert "not drawn: key_5, key_6, key_7, key_8, key_9 and 2 more" in words


def grid_sweep() -> Sweep:
    grid = plane(3, 2)
    scores = [
        {"acc": float(v["s0"] * v["s1"]), "ok": float(v["s0"] < Fraction(2, 10))} for v in grid
    ]
    return swept(grid, scores, maximize="acc", subject_to=["ok >= 1"])


def test_two_scalars_are_a_heatmap_with_a_frame_and_hatches() -> None:
    sweep = grid_sweep()
    figure = sweep_figure(sweep)
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == ("s0", "s1", "acc")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "0.1", "0.2"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["0.1", "0"]  # upwards
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert {one.get_xy() for one in frames if one.get_hatch()} == {(2, 0), (2, 1)}
    assert [one.get_xy() for one in frames if not one.get_hatch()] == [(1, 0)]
    assert sweep.chosen is not None
    assert sweep.chosen.values == {"s0": Fraction(1, 10), "s1": Fraction(1, 10)}
    assert cells(axes)[0, 1].get_text() == "0.0100"


def test_more_scalars_show_the_best_over_the_others_and_say_so() -> None:
    grid = plane(2, 2, 3)
    scores = [{"acc": float(v["s0"] + v["s2"] * (1 - 5 * v["s2"]))} for v in grid]
    sweep = swept(grid, scores, maximize="acc")
    figure = sweep_figure(sweep)
    (mesh,) = figure.axes[0].collections
    assert np.asarray(mesh.get_array()).ravel().tolist() == pytest.approx([0.05, 0.15] * 2)
    words = [text.get_text() for text in figure.texts]
    assert "Sweep of s0, s1 and s2" in words
    assert "each cell: the best over s2" in words


def test_scalars_swept_together_are_one() -> None:
    figure = sweep_figure(flat(line("a", "b")))
    assert figure.axes[0].get_xlabel() == "a = b"


def test_a_point_that_is_missing_or_no_number_is_gray() -> None:
    grid = [v for v in plane(3, 3) if v["s0"] != v["s1"]]
    scores = [{"x": math.nan if v["s0"] == 0 else 1.0} for v in grid]
    figure = sweep_figure(swept(grid, scores))
    (mesh,) = figure.axes[0].collections
    assert np.ma.count_masked(mesh.get_array()) == 3 + 2  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("count", "most", "kept"), [(5, 9, [0, 1, 2, 3, 4]), (41, 20, range(0, 41, 4)), (9, 1, [0])]
)
def test_labels_are_thinned_evenly(count: int, most: int, kept: Sequence[int]) -> None:
    labels = thinned([str(i) for i in range(count)], most)
    assert [int(label) for label in labels if label] == list(kept)


# ---- Words


def test_names_are_safe_and_short() -> None:
    assert shown("λ_toxic") == "λ_toxic"
    assert shown("中\x1b[31m") == "\\u4e2d\\x1b[31m"
    assert shown("a" * 20 + "b" * 20) == "a" * 15 + "…" + "b" * 15


def test_numbers_have_three_digits_and_a_minus_sign() -> None:
    found = [number_text(x) for x in (0.12345, -2, 1234.5, 1e7, 1e-5, math.nan)]
    assert found == ["0.123", "−2", "1,234", "1e+07", "1e−05", "–"]


# ---- Files


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.pdf", b"%PDF")]
)
def test_a_picture_is_saved_the_same_every_time(tmp_path: Path, name: str, start: bytes) -> None:
    path = tmp_path / name
    save_figure(sweep_figure(negation()), path)
    first = path.read_bytes()
    assert first.startswith(start)
    save_figure(sweep_figure(negation()), str(path))  # replaces it
    assert path.read_bytes() == first
    assert b"20" + b"26" not in first or name == "a.png"  # no date
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_an_svg_is_well_formed_whatever_the_names(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    geometry = Geometry(("<script>alert(1)</script>", 'a"b&c'), np.eye(2))
    save_figure(cosines_figure(geometry), tmp_path / "a.svg")
    tags = {
        element.tag.rpartition("}")[2] for element in ElementTree.parse(tmp_path / "a.svg").iter()
    }
    assert "path" in tags
    assert "script" not in tags


@pytest.mark.parametrize("name", ["a.jpg", "a", "model.safetensors", ".png"])
def test_another_ending_is_refused_before_anything_is_drawn(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no picture") as found:
        check_picture(tmp_path / name)
    assert ".png" in str(found.value.help)
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    figure = sweep_figure(negation())
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OutputError):
        save_figure(figure, tmp_path / "a.png")
    with pytest.raises(OutputError):
        save_figure(figure, tmp_path / "missing" / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.fixture
def without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("taskalg.pictures.canvas.find_spec", lambda name: None)
    yield


@pytest.mark.usefixtures("without_matplotlib")
def test_without_matplotlib_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    for act in (
        lambda: cosines_figure(angles(2)),
        lambda: norms_figure(lengths(SHORT, ["h.0"])),
        lambda: sweep_figure(negation()),
        lambda: check_picture("a.png"),
    ):
        with pytest.raises(UsageError, match="pictures need matplotlib") as found:
            act()
        assert found.value.help == 'pip install "taskalg[plot]"'


def test_the_user_s_matplotlib_is_left_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 40, "axes.facecolor": "black"}):
        figure = sweep_figure(negation())
        assert to_rgba(figure.axes[0].get_facecolor()) == to_rgba("white")
        assert matplotlib.rcParams["font.size"] == 40
        assert max(float(text.get_fontsize()) for text in texts(figure)) < 12  # ticks, too
    assert dict(matplotlib.rcParams) == before


def test_nothing_of_the_process_s_pictures_is_loaded() -> None:
    program = """
        import sys
        import numpy as np
        from tests.test_pictures import Geometry, cosines_figure
        from taskalg.pictures.canvas import rendered
        sys.modules.pop("matplotlib.pyplot", None)
        rendered(cosines_figure(Geometry(("a", "b"), np.eye(2))))
        print({"matplotlib.pyplot", "torch"} & set(sys.modules))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "set()\n"
