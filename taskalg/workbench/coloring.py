"""What a line being typed is colored by: its words, never whether they make sense yet."""

from itertools import pairwise

from taskalg.workbench.pieces import Fragment, is_command, pieces

_STYLES = {"string": "string", "open string": "open", "number": "number", "comment": "comment"}
_END = Fragment("line end", "\n", 0)


def colored(text: str) -> list[list[tuple[str, str]]]:
    """Return the lines of a text, each as parts with the name of a style, "" for none."""
    lines: list[list[tuple[str, str]]] = [[]]
    found = [*pieces(text), _END]
    in_command = is_command(text)
    for piece, following in pairwise(found):
        if piece.sort == "line end":
            lines.append([])
            continue
        style = _STYLES.get(piece.sort, "")
        if in_command and piece.sort in ("operator", "name"):
            style, in_command = "command", piece.sort == "operator"
        elif piece.sort == "name" and following.text == "(":
            style = "function"
        lines[-1].append((style, piece.text))
    return lines
