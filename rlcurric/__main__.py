"""`python -m rlcurric`, for launchers that take a module."""

from rlcurric.cli import main

if __name__ == "__main__":
    main()
