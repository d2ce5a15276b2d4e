"""Commands that go back to an output's manifest: arguments in, an answer or a receipt out."""

import re
import sys
from fractions import Fraction
from typing import Any

import click

from taskalg import listing
from taskalg.cli.options import json_option, print_json
from taskalg.console import progress_bar
from taskalg.errors import UsageError, VerificationError, quoted
from taskalg.help_pages import Page
from taskalg.names import locations
from taskalg.repeating.rerun import rerun as run_again
from taskalg.repeating.verify import verify as find_differences

_SHARE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(%?)", re.ASCII)


@click.command(cls=Page)
@click.argument("out", metavar="OUT")
@locations
@click.option("--sample", metavar="SHARE", help="Evaluate so much again: 5%, or 0% for headers.")
@json_option
@click.option("--quiet", is_flag=True, help="No progress, and nothing when all is well.")
def verify(out: str, where: dict[str, Any], sample: str | None, as_json: bool, quiet: bool) -> None:
    """Compare an output with its manifest and its inputs.

    \b
    taskalg verify detoxed/
    taskalg verify detoxed/ --base gpt2/ --task toxic=gpt2-toxic/ --sample 5%

    Files are held against the digests that merge --hash recorded. When inputs are given, or there
    are no digests, the sum is evaluated again and every byte compared. Exits with 6 when something
    differs.
    """
    share = None if sample is None else _share(sample)
    with progress_bar(quiet or as_json) as progress:
        found = find_differences(out, **where, sample=share, progress=progress)
    if as_json:
        print_json(listing.verification_json(found))
        sys.exit(0 if found.ok else VerificationError.exit_code)
    if not found.ok:
        raise VerificationError(str(found))
    if not quiet:
        click.echo(str(found))


@click.command(cls=Page)
@click.argument("out", metavar="OUT")
@locations
@click.option("-o", "new", required=True, metavar="NEW", help="The folder to write.")
@click.option("--overwrite", is_flag=True, help="Replace the model that is there.")
@json_option
@click.option("--quiet", is_flag=True, help="No progress, no report.")
def rerun(
    out: str, where: dict[str, Any], new: str, overwrite: bool, as_json: bool, quiet: bool
) -> None:
    """Make an output again from its manifest, byte by byte.

    \b
    taskalg rerun detoxed/ -o again/ --base gpt2/ --task toxic=gpt2-toxic/
    """
    with progress_bar(quiet or as_json) as progress:
        report = run_again(out, new, **where, overwrite=overwrite, progress=progress)
    if as_json:
        print_json(listing.report_json(report))
    elif not quiet:
        click.echo(listing.receipt(report), err=True)


def _share(text: str) -> Fraction:
    found = _SHARE.fullmatch(text)
    share = Fraction(found[1]) / (100 if found[2] else 1) if found else Fraction(2)
    if share > 1:
        raise UsageError(f"{quoted(text)} is no share", help="write --sample 5%")
    return share
