"""`python -m taskalg` is `taskalg`."""

from taskalg.cli import main

if __name__ == "__main__":
    main(prog_name="taskalg")
