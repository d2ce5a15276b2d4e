"""An expression that can be planned: headers are read, and the checkpoints have to fit."""

from dataclasses import replace

from taskalg.dtypes import floating_dtype
from taskalg.errors import KindError, UsageError
from taskalg.expression import Expression
from taskalg.planning.plan import Choices, Plan
from taskalg.planning.planner import make_plan
from taskalg.planning.resolve import Resolved
from taskalg.planning.rounds import rounds


class Planned(Expression):
    """An expression, and what is decided before anything of it is evaluated."""

    __hash__ = None  # == is deep, and may read headers

    def plan(
        self,
        *,
        dtype: str | None = None,
        donor: str | None = None,
        allow_partial: bool = False,
        only_shared: bool = False,
        rows: str = "all",
    ) -> Plan:
        """Decide what to read and with which coefficients. Reads headers only.

        Args:
            dtype: of floating tensors, such as "bf16"; by default the donor's.
            donor: the checkpoint whose names, dtypes and side files the result takes.
            allow_partial: whether coefficients may add up to something else than 1 or 0.
            only_shared: combine only the tensors that every term has.
            rows: "common" to combine the rows that all have, where vocabularies differ in size.

        Raises:
            TaskalgError: the checkpoints do not fit, or there is no result.
        """
        chosen = None if dtype is None else floating_dtype(dtype)
        choices = Choices(donor, chosen, allow_partial, only_shared, checked_rows(rows))
        return self.planned(choices)

    def planned(self, choices: Choices) -> Plan:
        """Decide the same of choices made before."""
        if choices.donor is None and self.numeric is not None:
            donor = self.resolved.terms[self.donor_index()][0].called
            choices = replace(choices, donor=donor)
        check_declared(self.resolved)
        try:
            plan = make_plan(self.resolved, choices, self.items)
            rounds(plan, self.items)  # refuses now what cannot be measured
            return plan
        except KindError as error:
            raise self._at(error) from None


def checked_rows(rows: str) -> str:
    """Return which rows are combined, where vocabularies differ in size.

    Raises:
        UsageError: it is neither "all" nor "common".
    """
    if rows not in ("all", "common"):
        raise UsageError("rows is 'all' or 'common'", note=f"found {rows!r}")
    return rows


def check_declared(total: Resolved) -> None:
    """Refuse checkpoints that were declared without a file.

    Raises:
        UsageError: one was.
    """
    undeclared = [operand for operand, _ in total.terms if operand.checkpoint is None]
    if undeclared:
        name, option = undeclared[0].name, "--task" if undeclared[0].is_task else "--model"
        binding = "--base PATH" if name == "base" else f"{option} {name}=PATH"
        raise UsageError(f"{name} was declared without a file", help=f"give it one: {binding}")
