"""Write what experiments say: as text for a terminal, and as REPORT.md with tables and pictures."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

import taskalg
from paper.experiment import Claim, Experiment, Section

_INTRODUCTION = """\
# Editing models with task arithmetic, in miniature

The experiments of Ilharco et al. 2022 ([arXiv 2212.04089](https://arxiv.org/abs/2212.04089)) with
networks that were trained here, in minutes, on data that comes with Python packages. Every merged
model is an expression that taskalg evaluated. Numbers are means over seeds; ± is half the distance
from the lowest to the highest. In each seed's folder are its checkpoints, and `zoo.ta` with their
names: `taskalg repl FOLDER/zoo.ta` is a session with them."""


def section_text(experiment: Experiment, section: Section) -> str:
    """Say what an experiment says, for a terminal."""
    parts = [experiment.title, section.text]
    parts += [f"{table.caption}:\n\n{table.text()}" for table in section.tables]
    parts += [claim_text(claim) for claim in section.claims]
    return "\n\n".join(filter(None, [*parts, section.remarks]))


def claim_text(claim: Claim) -> str:
    """Say what became of a claim, on two lines."""
    return f"paper: {claim.paper}\n{'here: ' if claim.holds else 'NOT here:'} {claim.here}"


def write_section(folder: Path, section: Section) -> None:
    """Write the tables and pictures of an experiment into its folder."""
    for number, table in enumerate(section.tables, 1):
        (folder / f"table-{number}.csv").write_text(table.csv(), encoding="utf-8")
    for picture in section.pictures:
        taskalg.save_figure(picture.draw(), folder / f"{picture.name}.png")


def report(
    experiments: Sequence[Experiment], sections: Mapping[str, Section], remarks: Sequence[str]
) -> str:
    """Return REPORT.md, which lies beside the folders of the experiments.

    Args:
        experiments: in the order of the report.
        sections: what they say, by name.
        remarks: on how it was run.
    """
    machine = f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}"
    rows = [row for e in experiments for row in _claim_rows(e, sections[e.name])]
    parts = [_INTRODUCTION, *remarks, f"Made with taskalg {taskalg.__version__}, {machine}."]
    parts.append("\n".join(["| the paper | here | holds |", "|---|---|---|", *rows]))
    for experiment in experiments:
        parts += _markdown(experiment, sections[experiment.name])
    return "\n\n".join(filter(None, parts)) + "\n"


def _markdown(experiment: Experiment, section: Section) -> list[str]:
    parts = [f"## {experiment.title}", section.text]
    for number, table in enumerate(section.tables, 1):
        link = f"([CSV]({experiment.name}/table-{number}.csv))"
        parts += [f"**{table.caption}** {link}", table.markdown()]
    for picture in section.pictures:
        parts.append(f"![{picture.caption}]({experiment.name}/{picture.name}.png)")
        parts.append(f"*{picture.caption}*")
    return [*parts, section.remarks]


def _claim_rows(experiment: Experiment, section: Section) -> list[str]:
    return [
        f"| {claim.paper} | {claim.here} | {'yes' if claim.holds else '**no**'} |"
        for claim in section.claims
    ]
