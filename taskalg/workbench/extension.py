"""What IPython calls at `%load_ext taskalg`: a file of its own, to keep `import taskalg` light."""

from typing import Any


def load_ipython_extension(shell: Any) -> None:
    """Register `%taskalg` lines and `%%taskalg` cells.

    Args:
        shell: IPython's.
    """
    from taskalg.workbench.notebook import register

    register(shell)
