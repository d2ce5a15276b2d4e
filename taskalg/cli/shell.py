"""The command that prints a shell's completion script."""

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes commands, options, names and files in your shell.

    \b
    taskalg completion bash > ~/.local/share/bash-completion/completions/taskalg
    taskalg completion zsh > ~/.zfunc/_taskalg
    taskalg completion fish > ~/.config/fish/completions/taskalg.fish

    A new shell has it. bash needs 4.4 and the package bash-completion, or `source` the file in
    ~/.bashrc. zsh needs the folder in its path before compinit, in ~/.zshrc:

    \b
    fpath=(~/.zfunc $fpath)
    autoload -U compinit && compinit

    In an expression the names are completed that the command line binds, in front of the cursor or
    behind it, those of the recipe after -f, and functions: type the options first.
    """
    from taskalg.cli.completion import script

    click.echo(script(ctx.find_root().command, shell), nl=False)
