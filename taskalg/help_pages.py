"""How `--help` looks: commands in the order of a user's day, options in the order of the work.

click lists commands by the alphabet and options in one heap of thirty. Here a command is in a
section of the first page, which fits a screen of 24 lines, and an option in one of its command's
page: what is measured or merged, what comes out, how it runs. THE TABLES say which.
"""

from collections.abc import Mapping, Sequence

import click

# Of the first page, in order; a command that is in none comes last.
COMMANDS: Mapping[str, Sequence[str]] = {
    "evaluate": ("merge", "convert"),
    "look": ("explain", "check", "equal", "inspect", "fmt", "ops"),
    "explore": ("repl", "geometry", "diff", "sweep"),
    "repeat": ("verify", "rerun"),
    "begin": ("demo", "completion"),
}
_LAST = "taskalg COMMAND --help says more; taskalg --version says which one this is"

# Of a command's page, by the names of parameters; what is in none comes first, as "Options".
OPTIONS: Mapping[str, Sequence[str]] = {
    "Names": ("file", "bases", "tasks", "models", "allow_pickle", "scalars"),
    "Result": (
        *("out", "new", "dtype", "donor", "shard_size", "as_lora", "rank", "overwrite", "hash"),
        *("allow_partial", "only_shared", "rows", "strict", "on_overflow"),
    ),
    "Run": ("engine", "threads", "dry_run", "as_json", "quiet", "verbose", "help"),
}
# For commands that open checkpoints.
_MORE: Mapping[str, Sequence[tuple[str, str]]] = {
    "Exit codes": (
        ("0", "Done."),
        ("1", "Done, and the answer is no."),
        ("2", "The expression or the command line is wrong."),
        ("3", "The checkpoints do not fit together."),
        ("4", "An input cannot be read, or is hostile."),
        ("5", "The output cannot be written."),
        ("6", "An output is not what its manifest says."),
        ("70", "A bug of ours."),
        ("130", "Interrupted; nothing was published."),
    ),
    "Environment": (
        ("TASKALG_CACHE", "Folder of what was measured; off for none."),
        ("NUMBA_CACHE_DIR", "Folder of compiled kernels."),
        ("HF_HOME, HF_TOKEN", "Where downloads are kept, and who you are."),
        ("NO_COLOR", "No colors."),
    ),
}


class Page(click.Command):
    """A command whose page has sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        records = {
            "help" if "--help" in parameter.opts else parameter.name or "": record
            for parameter in self.get_params(ctx)
            if (record := parameter.get_help_record(ctx)) is not None and record[1]
        }
        sorted_ = {name for section in OPTIONS.values() for name in section}
        own = [name for name in records if name not in sorted_]
        sections = {"Options": own, **OPTIONS}
        width = max((len(name) for name, _ in records.values()), default=0)
        for title, section in sections.items():
            found = [records[name] for name in records if name in section]
            if found:
                with formatter.section(title):
                    formatter.write_dl([(name.ljust(width), help) for name, help in found], 32)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the command's end says, and what it listens to."""
        super().format_epilog(ctx, formatter)
        if any(parameter.name == "bases" for parameter in self.params):
            width = max(len(name) for section in _MORE.values() for name, _ in section)
            for title, section in _MORE.items():
                with formatter.section(title):
                    formatter.write_dl([(name.ljust(width), help) for name, help in section])


def format_first_page(
    commands: Mapping[str, click.Command], formatter: click.HelpFormatter
) -> None:
    """Write all commands with a line each, section by section."""
    known = {name for section in COMMANDS.values() for name in section}
    rest = [name for name in commands if name not in known]
    left, right = max(map(len, COMMANDS)), max(map(len, commands))
    formatter.write_paragraph()
    for title, section in {**COMMANDS, "more": rest}.items():
        for place, name in enumerate(name for name in section if name in commands):
            first = title if place == 0 else ""
            room = formatter.width - left - right - 4  # of 80 columns click leaves two
            help = commands[name].get_short_help_str(room)
            formatter.write(f"  {first:<{left}}  {name:<{right}}  {help}\n")
    formatter.write_paragraph()
    formatter.write(f"{_LAST}\n")
