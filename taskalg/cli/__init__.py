"""The command line: a command is one function in a file here, and a row in main.py."""
