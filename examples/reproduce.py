"""All experiments of the paper in one go: a folder with REPORT.md, tables and pictures.

    python examples/reproduce.py

takes seven minutes on two cores and 0.6 GB, and `--fast` half a minute: that has one seed, and less
of everything. `--out` names the folder. Its checkpoints stay there, to be played with:

    taskalg repl reproduced/forgetting/seed-0/zoo.ta
"""

from addition import ADDITION
from analogies import ANALOGIES
from forgetting import FORGETTING
from language_model import LANGUAGE_MODEL
from paper.script import main
from task_vectors import TASK_VECTORS

if __name__ == "__main__":
    main(FORGETTING, ADDITION, ANALOGIES, LANGUAGE_MODEL, TASK_VECTORS)
