"""What the experiments of the paper share; forgetting.py is the one to read first.

zoo.py: a folder of checkpoints and the recipes over it. digits.py: pictures, questions, training.
sums.py: sums of task vectors. language.py: the text and the transformer of language_model.py.
domains.py: other views of the digits, for analogies.py. experiment.py: what an experiment is, and
what it reports. running.py: seeds and processes. script.py: the command line. report.py: what is
printed and written. columns.py: means over seeds. figures.py: pictures of such.
"""

from importlib.util import find_spec

_NEEDED = {"sklearn": "demo", "matplotlib": "plot"}  # a package, and the extra that brings it

if _missing := [extra for package, extra in _NEEDED.items() if find_spec(package) is None]:
    raise SystemExit(f'the experiments need more: pip install ".[{",".join(_missing)}]"')
