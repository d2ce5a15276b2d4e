"""The command that prints a shell's completion script."""

import click

from taskalg.help_pages import Page


@click.command(cls=Page)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that makes your shell complete.

    \b
    taskalg completion bash > ~/.local/share/bash-completion/completions/taskalg
    taskalg completion zsh > ~/.zfunc/_taskalg
    taskalg completion fish > ~/.config/fish/completions/taskalg.fish

    Commands, options, names and files are completed in a new shell. bash needs 4.4 or newer, and
    the package bash-completion, or else `source` the file in ~/.bashrc. zsh looks into the folder
    when ~/.zshrc says so:

    \b
    fpath=(~/.zfunc $fpath)
    autoload -U compinit && compinit

    In an expression the names are completed that the command line binds, in front of the cursor or
    behind it, those of the recipe after -f, and functions: type the options first.
    """
    from taskalg.cli.completion import script

    click.echo(script(ctx.find_root().command, shell), nl=False)
