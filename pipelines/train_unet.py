"""`tilingseg train` as a file, for launchers that start files: `torchrun … train_unet.py recipe`.

Takes what the command takes, a recipe and its flags. How training works is in
`tilingseg.training.loop`.
"""

from __future__ import annotations

import sys

from tilingseg.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
