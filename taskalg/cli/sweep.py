"""The command that tries scalars on a grid: arguments in, a table or JSON out."""

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import click
from click.core import ParameterSource

from taskalg import listing
from taskalg.algebra.rationals import decimal_text
from taskalg.cli.options import RUNNING, choices, json_option, print_json, running
from taskalg.console import ExpressionCommand, progress_bar
from taskalg.engines.registry import check_engine
from taskalg.errors import UsageError, printable
from taskalg.names import Names, swept_bindings
from taskalg.recipe import Recipe
from taskalg.running.report import Report
from taskalg.running.stream import Progress
from taskalg.sweeping.grid import split_setting
from taskalg.sweeping.sweep import RESULTS
from taskalg.sweeping.sweep import sweep as run_sweep
from taskalg.sweeping.values import Point, Sweep

_MERGE = ("file", "bases", "tasks", "models", "allow_pickle")  # options that merge has as well
_CHOICES = ("dtype", "donor", "shard_size", "threads", "allow_partial", "only_shared", "rows")
_CHOSEN = re.compile(r"^.* {3}chosen$", re.MULTILINE)  # the table's row
_NOTHING_CHOSEN = 1  # exit code


@click.command(cls=ExpressionCommand)
@click.argument("expr", required=False)
@swept_bindings
@click.option("--score", "command", required=True, metavar="CMD", help="Scores a folder: {model}.")
@click.option("--maximize", metavar="SCORE", help="Choose the point with most of this.")
@click.option("--minimize", metavar="SCORE", help="Choose the point with least of this.")
@click.option(
    "--subject-to",
    multiple=True,
    metavar="CONDITION",
    help="Choose among points that meet this. May be given several times.",
)
@click.option("--keep-best", "out", metavar="OUT", help="Merge the chosen point to this output.")
@click.option("--csv", default=RESULTS, metavar="FILE", help=f"Keeps the scores [{RESULTS}].")
@click.option("--restart", is_flag=True, help="Replace the scores of an earlier sweep.")
@click.option("--plot", metavar="FILE", help="Draw the scores: a .png, .svg or .pdf.")
@click.option("--scratch", metavar="DIR", help="Where points are written [beside the scores].")
@click.option("--timeout", type=float, metavar="SECONDS", help="Of CMD, for one point.")
@click.option("--verbose", is_flag=True, help="Show what CMD says on stderr.")
@choices
@running
@json_option
@click.option("--quiet", is_flag=True, help="No progress, only the table.")
def sweep(
    expr: str | None,
    names: Names,
    grid: dict[str, str],
    out: str | None,
    plot: str | None,
    as_json: bool,
    quiet: bool,
    overwrite: bool,
    hash: bool,
    **given: Any,
) -> None:
    """Score EXPR on a grid of scalars, and choose a point.

    The largest λ that keeps 95 % of control accuracy, the paper's rule for negation:

    \b
    taskalg sweep "base - λ*toxic" --base gpt2/ --task toxic=gpt2-toxic/ \\
        --set "λ=0:1:0.05" --score "python score.py {model}" \\
        --maximize λ --subject-to "control >= 0.95*base.control" --keep-best detoxed/

    CMD is run for each point, without a shell. {model} is the folder with the weights, {λ} the
    scalar's value; TASKALG_MODEL and TASKALG_λ hold them, too. The last line it prints on stdout is
    a number, which is called score, or an object of numbers: {"control": 0.81, "toxicity": 0.02}.
    With lm-eval, --score "sh score.sh {model}" and this score.sh:

    \b
    out=$(mktemp -d)
    lm_eval --model hf --model_args pretrained=$1 --tasks lambada_openai,toxigen \\
        --output_path $out >&2
    jq -c '.results | {control: .lambada_openai["acc,none"], toxicity: .toxigen["acc,none"]}' \\
        $out/*/results_*.json

    SCORE and both sides of a CONDITION are formulas in these keys, the swept scalars, and base.KEY,
    which is what the base scores. Scalars that are swept independently make a grid of all
    combinations, the last one changing fastest; of points that are equally good the first is
    chosen. A score that is not finite meets no condition and is never chosen.

    Points are written to one scratch folder, which is removed after each. A sweep that was stopped
    goes on where it was, and one with a finer grid only scores what is new. The base is scored
    where it lies. Exits with 1 when no point meets the conditions.
    """
    settings = {name: given.pop(name) for name in (*_CHOICES, *RUNNING) if name in given}
    kept = {**settings, "overwrite": overwrite, "hash": hash}
    recipe = names.recipe(expr)
    _check_outputs(recipe, out, plot, kept, given)
    silent = quiet or as_json
    screen = _Screen(silent)
    with _resumable(given["csv"], screen):
        found = run_sweep(
            recipe,
            grid,
            given.pop("command"),
            **given,
            options={**settings, "progress": screen.merging},
            progress=None if silent else screen.scored,
        )
    if not as_json:
        marked = _CHOSEN.sub(lambda row: click.style(row[0], fg="green", bold=True), str(found))
        click.echo(marked, color=False if os.environ.get("NO_COLOR") else None)
    report = None
    if out is not None and found.chosen is not None:
        with progress_bar(silent) as progress:
            report = recipe.bind(**found.chosen.values).save(out, progress=progress, **kept)
    command = None if found.chosen is None else _merge_command(expr, found.chosen, out)
    if as_json:
        kept_json = None if report is None else listing.report_json(report)
        print_json({**found.to_json(), "command": command, "kept": kept_json})
    elif not quiet:
        _tell_end(given["csv"], command, report)
    if plot is not None:
        _draw(found, plot)
        click.echo("" if silent else f"wrote {printable(plot)}\n", nl=False, err=True)
    if found.chosen is None and (found.maximize or found.minimize):
        sys.exit(_NOTHING_CHOSEN)


def _check_outputs(
    recipe: Recipe,
    out: str | None,
    plot: str | None,
    kept: Mapping[str, Any],
    given: Mapping[str, Any],
) -> None:
    """Refuse before the first point what would be refused after the last."""
    check_engine(kept["engine"])
    if plot is not None:
        from taskalg.pictures.canvas import check_picture

        check_picture(plot)
    if out is None:
        return
    if given["maximize"] is None and given["minimize"] is None:
        raise UsageError("--keep-best needs to know what is best", help="add --maximize score")
    planned = {name: value for name, value in kept.items() if name not in RUNNING}
    recipe.explain(out or ".", **planned).rehearse(overwrite=kept["overwrite"])


def _tell_end(csv: str, command: str | None, report: Report | None) -> None:
    """Say where the scores are, what was kept, and how to make it again."""
    click.echo(f"scores in {printable(csv)}", err=True)
    if report is not None:
        click.echo(listing.receipt(report), err=True)
    if command is not None:
        click.echo(f"again: {printable(command)}", err=True)


def _merge_command(expr: str | None, chosen: Point, out: str | None) -> str:
    """Return the command that merges a point: this one's options, and the scalars' values."""
    context = click.get_current_context()
    words = ["taskalg", "merge", *([] if expr is None else [expr])]
    for option in context.command.params:
        name = option.name or ""
        is_given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if is_given and name in (*_MERGE, *_CHOICES, *RUNNING):
            words += _option(option.opts[0], context.params[name])
    for text in context.params["scalars"]:
        names, values, is_swept = split_setting(text)
        if not is_swept:
            words += [word for name in names.split("=") for word in ("--set", f"{name}={values}")]
    for name, value in chosen.values.items():
        words += ["--set", f"{name}={decimal_text(value)}"]
    return shlex.join([*words, "-o", out or "OUT"])


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [name]
    values = value if isinstance(value, tuple) else (value,)
    return [word for one in values for word in (name, str(one))]


def _draw(found: Sweep, plot: str) -> None:
    from taskalg.pictures.canvas import save_figure
    from taskalg.pictures.sweeps import sweep_figure

    save_figure(sweep_figure(found), plot)


@contextmanager
def _resumable(csv: str, screen: "_Screen") -> Iterator[None]:
    """Say after Ctrl-C that a sweep can go on."""
    try:
        with closing(screen):
            yield
    except KeyboardInterrupt:
        click.echo(f"what is scored is in {printable(csv)}; the same command goes on", err=True)
        raise


class _Screen:
    """What is shown while points are made: a bar for a merge, and a word while CMD scores."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._is_terminal = not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._open = ExitStack()  # the bar that is there, if any
        self._draw: Callable[[Progress], None] | None = None
        self._has_word = False
        with progress_bar(quiet):
            pass  # what is logged is quiet from here on

    def merging(self, progress: Progress) -> None:
        """Draw how far a merge is."""
        if progress.done >= progress.total:  # may be told twice
            self.close()
            self._has_word = self._is_terminal
            click.echo("scoring" if self._has_word else "", nl=False, err=True)
            return
        if self._draw is None:
            self.close()
            self._draw = self._open.enter_context(progress_bar(self._quiet))
        self._draw(progress)

    def scored(self, point: Point, done: int, total: int) -> None:
        """Say what a point scored."""
        self.close()
        click.echo(f"{done:>{len(str(total))}}/{total}  {point.told}", err=True)

    def close(self) -> None:
        """Take away what is not to stay."""
        self._open.close()
        self._draw = None
        if self._has_word:
            click.echo("\r\x1b[2K", nl=False, err=True)
        self._has_word = False
