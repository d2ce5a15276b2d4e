"""Completion in the user's shell: the scripts, and what could stand where the cursor is.

click answers for subcommands, options and choices; what it cannot know stands in THE TABLE below.
Its own scripts were rejected: they split a line into words before anybody asks, and bash does that
at `=` and inside nothing else than its own quotes, so that neither `--task toxic=gp` nor
`"base - to` arrives whole. These hand over the line as it is, on both sides of the cursor, so that
names are known that are bound behind it.

Nothing here is imported but by the command and by `complete`, so that no other run pays for it.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial

import click
from click.shell_completion import (
    CompletionItem,
    ShellComplete,
    add_completion_class,
    split_arg_string,
)

from taskalg.algebra.operators import BUILTINS, FUNCTIONS
from taskalg.compiler import Reader, read_recipe
from taskalg.dtypes import FLOATING
from taskalg.engines.registry import ENGINES
from taskalg.errors import TaskalgError
from taskalg.language.nodes import Binding
from taskalg.language.parser import parse
from taskalg.language.recipe import link

VARIABLE = "_TASKALG_COMPLETE"  # set by the scripts: whose they are, and that it is a question
BEFORE, AFTER = "TASKALG_BEFORE", "TASKALG_AFTER"  # the command's text around the cursor
_OURS = "whole"  # type of items that say themselves whether a word ends with them
_CURSOR = "\ufdd0"  # no character that anybody types
_NAME = re.compile(r"(?<![\w.])[^\W\d]\w*$")
_ENDED = re.compile(r"[\w.)\]]\s*$")  # after a number or a bracket no name can begin
_MINUS = re.compile(r"-(?=\w\w|[\d.(])|--+(?=[\d.(])")
_BREAKS = "=:<>;|&("  # where bash begins a new word, as readline understands words

Found = Iterator[str]
Complete = Callable[[click.Context, str], Found]  # values; those that end a word end in a blank


def expressions(ctx: click.Context, typed: str) -> Found:
    """Yield an expression with its last name completed."""
    name = _NAME.search(typed)
    start = typed[: name.start()] if name else typed
    in_string = start.count('"') % 2 or start.count("'") % 2
    if in_string or _ENDED.search(start):
        return
    for one in [*names(ctx), *(f"{function}(" for function in FUNCTIONS)]:
        if one.startswith(name[0] if name else ""):
            yield start + one


def operands(ctx: click.Context, typed: str) -> Found:
    """Yield expressions, and paths for the command that takes both."""
    found = list(paths(ctx, typed)) if ctx.command.name == "diff" else []
    if not (found and os.path.dirname(typed)):  # a path has begun
        yield from expressions(ctx, typed)
    yield from found


def names(ctx: click.Context) -> list[str]:
    """Return the names that the command line binds, a function's with its bracket."""
    given = ctx.params
    bound = ["base"] if given.get("bases") else []
    for option in ("tasks", "models", "scalars"):
        bound += [text.partition("=")[0] for text in given.get(option) or ()]
    with suppress(TaskalgError):  # a shell is no place to tell what is wrong with a recipe
        bound += _recipe_names(given.get("file") or given.get("recipe"))
    return sorted(set(bound))


def _recipe_names(file: str | None) -> list[str]:
    if file is None:
        return []
    source = read_recipe(file)
    program = link(parse(source), builtins=BUILTINS, read=Reader(source).read, free=True)
    return [one.name if isinstance(one, Binding) else f"{one.name}(" for one in program.statements]


def bound_names(ctx: click.Context, typed: str) -> Found:
    """Yield the names of checkpoints and scalars."""
    return (f"{one} " for one in names(ctx) if one.startswith(typed) and not one.endswith("("))


def scalar_names(ctx: click.Context, typed: str) -> Found:
    """Yield names that can be set, once their value has not begun."""
    known = (f"{one}=" for one in names(ctx) if not one.endswith("("))
    return (one for one in known if one.startswith(typed))


def paths(ctx: click.Context, typed: str) -> Found:
    """Yield files and folders."""
    folder, start = os.path.split(typed)
    with suppress(OSError), os.scandir(os.path.expanduser(folder) or ".") as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            is_hidden = entry.name.startswith(".") and not start.startswith(".")
            if entry.name.startswith(start) and not is_hidden and entry.name.isprintable():
                yield os.path.join(folder, entry.name) + ("/" if entry.is_dir() else " ")


def recipes(ctx: click.Context, typed: str) -> Found:
    """Yield recipe files and folders; all files where none is called like a recipe."""
    found = list(paths(ctx, typed))
    called = [one for one in found if one.endswith((".ta ", "/"))]
    yield from called if any(one.endswith(".ta ") for one in called) else found


def named_paths(ctx: click.Context, typed: str) -> Found:
    """Yield a name with a path behind it, once there is a name."""
    name, equals, path = typed.partition("=")
    return (f"{name}={one}" for one in paths(ctx, path)) if equals else iter(())


def words(known: tuple[str, ...], ctx: click.Context, typed: str) -> Found:
    """Yield words that begin as what is typed."""
    return (f"{one} " for one in known if one.startswith(typed))


# THE TABLE: by the parameter's name.
COMPLETES: Mapping[str, Complete] = {
    **dict.fromkeys(("expr", "exprs"), expressions),
    **dict.fromkeys(("first", "second"), operands),
    **dict.fromkeys(("tasks", "models"), named_paths),
    **dict.fromkeys(("file", "recipe"), recipes),
    **dict.fromkeys(("bases", "path", "out", "new", "folder"), paths),
    **dict.fromkeys(("csv", "plot", "scratch"), paths),
    "scalars": scalar_names,
    "donor": bound_names,
    "dtype": partial(words, tuple(dtype.name for dtype in FLOATING)),
    "engine": partial(words, ("auto", *ENGINES)),
}


class Shell(ShellComplete):
    """What all shells have in common: a line with a cursor in, completed words out."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words but the one at the cursor, and that one up to the cursor.

        Words behind the cursor come before those in front of it: options have no order, and click
        looks at the last word to know what is asked for.
        """
        line = os.environ[BEFORE] + _CURSOR + os.environ.get(AFTER, "")
        _, *found = split_arg_string(line)
        place = next(i for i, word in enumerate(found) if _CURSOR in word)
        earlier, later = found[:place], found[place + 1 :]
        behind = later if earlier else []
        return [*earlier[:1], *behind, *earlier[1:]], found[place].partition(_CURSOR)[0]

    def complete(self) -> str:
        """Return a line for each word that could stand at the cursor."""
        args, typed = self.get_completion_args()
        minus = _MINUS.match(typed)  # of an expression: click would take it for an option
        is_option = typed.startswith("-") and "=" in typed and not minus
        start = minus[0] if minus else typed[: typed.index("=") + 1] if is_option else ""
        found = self.get_completions(args, typed[len(start) :] if minus else typed)
        words = [item.value if item.type == _OURS else f"{item.value} " for item in found]
        lines = zip(words, found, strict=True)
        return "\n".join(self.line(typed, start + word, item.help) for word, item in lines)

    def line(self, typed: str, word: str, help: str | None) -> str:
        """Return a word as the shell wants it."""
        return word


class Bash(Shell):
    """bash 4.4 and newer, which wants only what follows its last break, and quoted."""

    name = "bash"
    source_template = """\
%(complete_func)s() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        [[ $line ]] && COMPREPLY+=("$line")
    done < <(env TASKALG_BEFORE="${COMP_LINE:0:COMP_POINT}" \\
        TASKALG_AFTER="${COMP_LINE:COMP_POINT}" %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nospace -o nosort -F %(complete_func)s %(prog_name)s
"""

    def line(self, typed: str, word: str, help: str | None) -> str:
        """Return what takes the place of the text behind the last break or open quote."""
        quote, inside = _open_quote(os.environ[BEFORE])
        kept = _plain(inside) if quote == '"' else inside
        if not quote:
            kept = re.split(f"[{_BREAKS}]", typed)[-1]
        rest = word[len(typed) - len(kept) :]
        if quote:  # readline closes it
            return _escaped(rest.rstrip(" "), '"$`\\\\') if quote == '"' else rest.rstrip(" ")
        end = " " if rest.endswith(" ") else ""
        return re.sub(r"([^\w@%+:,./~=-])", r"\\\1", rest.removesuffix(" ")) + end


class Zsh(Shell):
    """zsh, which quotes words itself."""

    name = "zsh"
    source_template = """\
#compdef %(prog_name)s
%(complete_func)s() {
    local -a found
    found=("${(@f)$(env TASKALG_BEFORE="${(j: :)words[1,CURRENT-1]} $QIPREFIX$PREFIX" \\
        TASKALG_AFTER="$SUFFIX$QISUFFIX ${(j: :)words[CURRENT+1,-1]}" \\
        %(complete_var)s=zsh_complete "${words[1]}" 2>/dev/null)}")
    compadd -U -S '' -V open -- ${found:#(|* )}
    compadd -U -V ended -- ${${(M)found:#* }%% }
    [[ -n $found ]]
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""


class Fish(Shell):
    """fish, which quotes words itself, ends them, and shows what they are."""

    name = "fish"
    source_template = """\
function %(complete_func)s
    env TASKALG_BEFORE=(commandline -cp | string collect) \\
        %(complete_var)s=fish_complete (commandline -po)[1] 2>/dev/null
end
complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""

    def line(self, typed: str, word: str, help: str | None) -> str:
        """Return a word and what it is."""
        return f"{word.rstrip(' ')}\t{help or ''}"


SHELLS: Mapping[str, type[Shell]] = {one.name: one for one in (Bash, Zsh, Fish)}


def prepare(root: click.Group) -> None:
    """Have a group of commands answer the scripts."""
    for shell in SHELLS.values():
        add_completion_class(shell)
    for command in root.commands.values():
        for parameter in command.params:
            complete = COMPLETES.get(parameter.name or "")
            if complete is not None:
                parameter.shell_complete = partial(_items, complete)  # type: ignore[method-assign]


def script(root: click.Command, shell: str) -> str:
    """Return the script that makes a shell ask."""
    return SHELLS[shell](root, {}, "taskalg", VARIABLE).source()


def _items(complete: Complete, ctx: click.Context, typed: str) -> list[CompletionItem[str]]:
    return [CompletionItem(word, type=_OURS) for word in complete(ctx, typed)]


def _open_quote(text: str) -> tuple[str, str]:
    """Return the quote that is open at a text's end and what stands behind it; or nothing."""
    quote, start, is_escaped = "", 0, False
    for place, char in enumerate(text):
        if is_escaped:
            is_escaped = False
        elif char == "\\" and quote != "'":
            is_escaped = True
        elif char == quote:
            quote = ""
        elif not quote and char in "\"'":
            quote, start = char, place + 1
    return quote, text[start:] if quote else ""


def _plain(text: str) -> str:
    """Return what a text between double quotes means."""
    return re.sub(r'\\(["$`\\])', r"\1", text)


def _escaped(text: str, special: str) -> str:
    return re.sub(f"([{special}])", r"\\\1", text)
