"""`python -m tilingseg` is the command line."""

from tilingseg.cli import main

if __name__ == "__main__":
    main()
