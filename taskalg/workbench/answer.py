"""What a session says to one input."""

from dataclasses import dataclass

from taskalg.errors import TaskalgError


@dataclass(frozen=True)
class Answer:
    """One answer: plain text for a terminal, and the value behind it for whoever shows more."""

    text: str  # without a line end; empty when there is nothing to say
    value: object = None  # what it is about: a Recipe, Explanation, Report, Geometry, Sweep, …
    error: TaskalgError | None = None  # why there is no value; the text tells it already
    leaves: bool = False  # whether the session is over

    @classmethod
    def of_error(cls, error: TaskalgError) -> "Answer":
        """Tell an error, with its carets."""
        return cls(str(error), error=error)
