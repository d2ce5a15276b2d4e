"""`python -m taskalg` is `taskalg`."""

import atexit
import os
import sys

from taskalg.cli.main import main
from taskalg.errors import OutputError


def run() -> None:
    """Run the command line and leave at once.

    Taking the interpreter and the compiler apart object by object costs a tenth of a second that
    nobody needs: files are closed and synced, and the system takes the memory back whole.
    """
    code: object = 70  # our bug, if anything but an exit ends the command
    try:
        if "_TASKALG_COMPLETE" in os.environ:  # a shell asks; any other run needs none of it
            from taskalg.cli.completion import prepare

            prepare(main)
        main(prog_name="taskalg")
    except SystemExit as stop:
        code = stop.code
    except OSError as error:  # help that cannot be printed; commands tell it themselves
        code = OutputError.exit_code
        os.write(2, f"cannot print: {error.strerror}\n".encode())
    try:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream:  # None when the caller had closed it
                stream.flush()
    except (OSError, ValueError):  # the reader left, closed the stream, or has no space
        pass
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    run()
