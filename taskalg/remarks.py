"""What a user should know about a plan besides what it does: rows of `explain`, notes of a run."""

from pathlib import Path
from typing import Any

from taskalg.algebra.kinds import Kind
from taskalg.errors import listed, printable, quoted
from taskalg.output.destination import is_file_output
from taskalg.output.sidefiles import linked_from_outside
from taskalg.output.tokenizers import template_warning, vocabulary_warnings
from taskalg.planning.align import Alignment
from taskalg.planning.donor import opened
from taskalg.planning.plan import Plan

Remark = tuple[str, str]  # a word for what it is about, and a sentence


def remarks(plan: Plan) -> list[Remark]:
    """Say what its readers found about each checkpoint, and how their names were made to agree."""
    found = [("note", note) for note in _notes(plan)]
    found += [remark for name, one in _aligned(plan) for remark in _names(name, one)]
    giver = printable(plan.operands[plan.donor].called)
    verb = "left out" if plan.kind is Kind.TASK_VECTOR else f"copied from {giver}"
    own = dict.fromkeys(name for _, one in _aligned(plan) for name in one.own_buffers)
    for name, count in plan.fit.rows.items():
        rows = plan.fit.tensors[name].shape[0]
        rest = "zero" if plan.kind is Kind.TASK_VECTOR else f"those of {giver}"
        more = f", the others {rest}" if count < rows else ""
        found.append(("rows", f"{quoted(name)}: {count:,} of {rows:,} are combined{more}"))
    for names, words in ((plan.aligned.buffers, verb), (own, f"not in {giver}, left out")):
        if names:
            found.append(("buffers", f"{listed([quoted(name) for name in names])}: {words}"))
    return found


def remarks_json(plan: Plan) -> dict[str, Any]:
    """Return the same as JSON."""
    renamed, tied = [], []
    for name, one in _aligned(plan):
        match = one.renamed
        if match is not None:
            verb = "dropped" if match.prefix.dropped else "added"
            count = len(match.names)
            renamed.append({"checkpoint": name, verb: match.prefix.text, "tensors": count})
        tied += [{"checkpoint": name, "lacks": k, "takes": v} for k, v in one.ties.lent.items()]
        tied += [{"checkpoint": name, "drops": k, "keeps": v} for k, v in one.ties.dropped.items()]
    return {
        "renamed": renamed,
        "tied": tied,
        "buffers": list(plan.aligned.buffers),
        "rows": dict(plan.fit.rows),
        "notes": _notes(plan),
    }


def warnings(plan: Plan, out: Path) -> tuple[str, ...]:
    """Say what about the inputs' tokenizers could spoil the output. Reads their side files.

    Memory: that of `vocabulary_warnings`.
    """
    donor = plan.operands[plan.donor]
    folder = opened(donor).folder
    others = {
        usage.operand.called: other
        for index, usage in enumerate(plan.usage)
        if usage.tensors and index != plan.donor
        if (other := opened(usage.operand).folder) is not None
    }
    if folder is None:
        return ()
    found = vocabulary_warnings(donor.called, folder, others)
    template = template_warning(donor.called, folder, others)
    if plan.kind is Kind.TASK_VECTOR or is_file_output(out):
        return found  # without side files
    linked = [quoted(name) for name in linked_from_outside(opened(donor))]
    if linked:
        verb = "is a link" if len(linked) == 1 else "are links"
        found = (*found, f"{listed(linked)} {verb} out of the folder of {printable(donor.called)}")
    return (*found, template) if template is not None else found


def _notes(plan: Plan) -> list[str]:
    read = (usage.operand for usage in plan.usage if usage.tensors)
    return [note for operand in read for note in opened(operand).notes]


def _aligned(plan: Plan) -> list[tuple[str, Alignment]]:
    """Return what was done to each checkpoint that is read."""
    return [
        (usage.operand.called, one)
        for usage, one in zip(plan.usage, plan.aligned.alignments, strict=True)
        if usage.tensors
    ]


def _names(called: str, one: Alignment) -> list[Remark]:
    name, match = printable(called), one.renamed
    found = []
    if match is not None:
        verb, to = ("dropped", "from") if match.prefix.dropped else ("added", "to")
        count = f"{len(match.names):,} tensor{'' if len(match.names) == 1 else 's'}"
        found.append(("names", f"{name}: {verb} {quoted(match.prefix.text)} {to} {count}"))
    for lacking, partner in one.ties.lent.items():
        found.append(("tied", f"{name}: {quoted(partner)} is its {quoted(lacking)} too"))
    for dropped, partner in one.ties.dropped.items():
        found.append(("tied", f"{name}: {quoted(dropped)} is a copy of {quoted(partner)}"))
    return found
