"""`tilingseg evaluate` as a file, for launchers and schedulers that start files.

Takes what the command takes, a recipe and its flags. What is measured is in
`tilingseg.evaluation`.
"""

from __future__ import annotations

import sys

from tilingseg.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    main()
