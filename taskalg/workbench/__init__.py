"""The workbench: a session of inputs and answers, and what shows it: a terminal, a notebook."""
