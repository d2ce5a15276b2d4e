"""What messages tell to type, in the words of a session: they were written for the command line."""

import re

_OPTIONS = (  # what messages tell to type on the command line, and what it is here
    (re.compile(r", or declare it with --model base"), ""),
    (re.compile(r"(; |^)--allow-partial writes it all the same"), ""),
    (re.compile("taskalg ops lists"), ":help lists"),
    (re.compile(r"--base (\S+)"), r":load base \1"),
    (re.compile(r"--task (\w+)[= ]([^\s,;]+)"), r":load --task \1 \2"),
    (re.compile(r"--model (\w+)=([^\s,;]+)"), r":load \1 \2"),
    (re.compile(r"--set (\w+)=([^\s,;]+)"), r"\1 = \2"),
)


def in_session(help: str) -> str | None:
    """Translate what is to be typed."""
    if help.startswith("write :"):  # a command's own options
        return help
    for option, words in _OPTIONS:
        help = option.sub(words, help)
    return help or None
