"""The command line of a script that runs experiments."""

import time
from pathlib import Path

import click

from paper.experiment import Experiment
from paper.report import claim_text, report, section_text, write_section
from paper.running import run_all

_FAST = "**This was the fast mode: one seed, and less of everything.**"


def main(*experiments: Experiment) -> None:
    """Run some experiments as the command line says: print one, or make a report of several."""

    @click.command(help=_help(experiments))
    @click.option(
        "-o",
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        default="reproduced",
        show_default=True,
        help="Folder for checkpoints, tables and pictures.",
    )
    @click.option("--fast", is_flag=True, help="One seed, and less of everything.")
    def run(out: Path, fast: bool) -> None:
        begun = time.monotonic()
        sections = run_all(experiments, out, fast=fast)
        for name, section in sections.items():
            write_section(out / name, section)
        if len(experiments) == 1:
            click.echo(section_text(experiments[0], sections[experiments[0].name]))
            return
        took = f"All of it took {(time.monotonic() - begun) / 60:.1f} minutes."
        remarks = [_FAST, took] if fast else [took]
        (out / "REPORT.md").write_text(report(experiments, sections, remarks), encoding="utf-8")
        for section in sections.values():
            click.echo("\n".join(map(claim_text, section.claims)))
        click.echo(f"\nwrote {out / 'REPORT.md'}")

    run()


def _help(experiments: tuple[Experiment, ...]) -> str:
    titles = "\n".join(f"{experiment.name}: {experiment.title}" for experiment in experiments)
    return f"\b\n{titles}"
