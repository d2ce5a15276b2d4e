"""What every picture shares: its style, its colors, the space its words need, and saving it.

Figures are made through matplotlib's objects and drawn by its Agg canvas. pyplot, the usual way,
keeps figures, a backend and settings for the whole process, and those belong to the user. So does
the style: a picture looks the same whatever the user's settings are.

Sizes are inches; words are measured with the font they are drawn in, so that a figure is exactly as
large as what is in it. matplotlib's own layouts were tried: they cannot keep cells square.
"""

import io
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskalg import files
from taskalg.errors import OutputError, UsageError, printable, quoted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, PAPER = "#222222", "#8a8a8a", "#ffffff"
SMALL, NORMAL, TITLE = 8.0, 9.0, 11.0  # sizes of words [points]
PAD = 0.12  # between things [inches]
NOTE = 0.17  # height of a line below a title [inches]
LONGEST = 32  # characters of a name in a picture
RESOLUTION = 200  # of a PNG [dots per inch]
INLINE = 100  # of a notebook's page [dots per inch]

_STYLE: Mapping[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, and has Greek
    "font.size": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.labelsize": NORMAL,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # a name may have dollars
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "hatch.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "figure.dpi": 100,
    "savefig.dpi": RESOLUTION,
    "svg.hashsalt": "taskalg",  # or names inside would be other ones every time
}
# By suffix: what would differ from run to run, left out.
_METADATA: Mapping[str, Mapping[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


@dataclass(frozen=True)
class Titles:
    """What stands over a picture."""

    title: str
    notes: tuple[str, ...] = ()  # smaller lines below it

    @property
    def height(self) -> float:
        """What they take, with some space below [inches]."""
        return 0.42 + NOTE * len(self.notes) + PAD / 2 * bool(self.notes)

    @property
    def width(self) -> float:
        """What they take, with some space at both sides [inches]."""
        title = 1.15 * width_of(self.title, TITLE)  # bold is wider
        return max(title, widest(self.notes)) + 2 * PAD


@contextmanager
def style() -> Iterator[None]:
    """Have matplotlib in our style inside; also a decorator, `@style()`, of what draws.

    Raises:
        UsageError: matplotlib is not installed.
    """
    _check_matplotlib()
    from matplotlib import style as styles

    with styles.context(["default", dict(_STYLE)]):
        yield


def _check_matplotlib() -> None:
    if find_spec("matplotlib") is None:
        help = 'pip install "taskalg[plot]"'
        raise UsageError("pictures need matplotlib, which is not installed", help=help)


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of that size [inches]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=PAPER)
    FigureCanvasAgg(figure)
    figure._repr_png_ = partial(_inline, figure)  # type: ignore[attr-defined]  # for notebooks
    return figure


def settled(figure: "Figure") -> "Figure":
    """Have a figure make its ticks while the style is ours: matplotlib does when it first draws."""
    figure.draw_without_rendering()
    return figure


def _inline(figure: "Figure") -> tuple[bytes, dict[str, int]]:
    """Return a picture and its size on a page; pyplot would have to be loaded to do that."""
    width, height = figure.get_size_inches() * INLINE
    return rendered(figure), {"width": round(width), "height": round(height)}


def add_axes(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Add axes at a distance from the figure's left and upper edges [inches]."""
    whole_width, whole_height = figure.get_size_inches()
    bottom = whole_height - top - height
    return figure.add_axes(
        (left / whole_width, bottom / whole_height, width / whole_width, height / whole_height)
    )


def add_title(figure: "Figure", titles: Titles) -> None:
    """Write a title at the upper left, and smaller lines below it."""
    width, height = figure.get_size_inches()
    left, top = PAD / width, 1 - PAD / height
    figure.text(left, top, titles.title, fontsize=TITLE, fontweight="bold", va="top")
    for row, line in enumerate(titles.notes):
        place = top - (0.26 + NOTE * row) / height
        figure.text(left, place, line, fontsize=SMALL, va="top", color=FAINT)


def width_of(text: str, size: float = SMALL) -> float:
    """Return how wide a text is drawn [inches]."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(family=_STYLE["font.sans-serif"], size=size)
    width: float = TextToPath().get_text_width_height_descent(text, font, False)[0]
    return width / 72


def widest(texts: Sequence[str], size: float = SMALL) -> float:
    """Return how wide the widest text is drawn [inches]."""
    return max((width_of(text, size) for text in texts), default=0.0)


def wrapped(text: str, width: float) -> list[str]:
    """Break a note into lines of at most that width [inches]."""
    average = width_of("n", SMALL)
    return textwrap.wrap(shown(text, None), max(20, int((width - 2 * PAD) / average)))


def shown(name: str, longest: int | None = LONGEST) -> str:
    """Return a name as pictures write it: without its middle when it is long.

    Characters that the font lacks are escapes, as those that would upset a terminal.
    """
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties(family=_STYLE["font.sans-serif"]))).get_charmap()
    text = "".join(char if ord(char) in known else _escape(char) for char in printable(name))
    half = ((longest or len(text)) - 1) // 2
    return text if longest is None or len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def _escape(char: str) -> str:
    return char.encode("ascii", "backslashreplace").decode()


def number_text(value: float) -> str:
    """Print a measured number with three digits and a real minus sign."""
    if value != value:
        return "–"
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")


def ink_on(color: Sequence[float]) -> str:
    """Return black or white, whichever is easier to read on a color."""
    red, green, blue = (_linear(part) for part in color[:3])
    return INK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.22 else PAPER


def _linear(part: float) -> float:
    """Undo the gamma of sRGB (WCAG 2.2, relative luminance)."""
    return float(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)


def save_figure(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Save a picture whole or not at all; one of that name is replaced.

    Args:
        figure: what `cosines_figure`, `norms_figure` or `sweep_figure` returned.
        path: ends in `.png`, `.svg` or `.pdf`.

    Raises:
        UsageError: it ends in something else.
        OutputError: it cannot be written.
    """
    place = check_picture(path)
    content = rendered(figure, place.suffix.lower())
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        files.write_small(temporary, content)
        files.rename(temporary, place)
    finally:
        files.remove(temporary)


def check_picture(path: str | os.PathLike[str]) -> Path:
    """Return the path of a picture that could be saved, before anything is measured for it.

    Raises:
        UsageError: it does not say which sort of picture, or matplotlib is not installed.
        OutputError: there is no such folder.
    """
    _check_matplotlib()
    place = files.at_home(path)
    if place.suffix.lower() not in _METADATA:
        raise UsageError(
            f"{quoted(str(path))} is no picture",
            note=f"pictures end in {', '.join(_METADATA)}",
            help=f"write {quoted(f'{place.stem or place.name}.png')}",
        )
    if not files.is_folder(place.parent):
        raise OutputError(f"there is no folder {quoted(str(place.parent))}", help="make it first")
    return place


def rendered(figure: "Figure", suffix: str = ".png") -> bytes:
    """Return a picture's file: the same bytes every time."""
    content = io.BytesIO()
    with style():
        figure.savefig(content, format=suffix[1:], metadata=dict(_METADATA[suffix]))
    return content.getvalue()
