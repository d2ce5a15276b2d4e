"""What the experiments of the paper share; forgetting.py is the one to read first.

zoo.py: a folder of checkpoints and the recipes over it. digits.py: pictures, questions, training.
experiment.py: what an experiment is, and what it reports. running.py: seeds and processes, and the
report. language.py: the text and the transformer of language_model.py. domains.py: other views of
the digits, for analogies.py. columns.py: means over seeds. figures.py: pictures of such.
"""
