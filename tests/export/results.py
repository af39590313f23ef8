"""A result in memory, that remembers what was read of it."""

import numpy as np

from tests.fakes import UTM
from tilingseg.grid import Window
from tilingseg.records import NODATA


class ArrayResult:
    """A MaskReader over arrays; blocky classes, so that files compress like real ones."""

    def __init__(self, height, width, classes=("building", "road"), georef=UTM, seed=0):
        rng = np.random.default_rng(seed)
        self.height, self.width, self.classes, self.georef = height, width, classes, georef
        coarse = rng.integers(0, len(classes) + 1, (-(-height // 16), -(-width // 16)))
        mask = np.kron(coarse, np.ones((16, 16), int))[:height, :width].astype(np.uint8)
        rows, cols = np.ogrid[:height, :width]
        mask[rows + 2 * cols < min(height, width) // 2] = NODATA
        self.mask = mask
        self.probability = rng.integers(0, 256, (len(classes), height, width), dtype=np.uint8)
        self.windows = []

    @property
    def whole(self):
        return Window(row=0, col=0, height=self.height, width=self.width)

    def read_mask(self, window):
        self.windows.append(window)
        return self.mask[window.slices_in(self.whole)].copy()

    def read_probability(self, class_index, window):
        self.windows.append(window)
        if self.probability is None:
            return None
        return self.probability[class_index][window.slices_in(self.whole)].copy()

    def cut(self, extent):
        """Return mask and probability (0 without data) of an extent."""
        mask = self.mask[extent.slices_in(self.whole)]
        probability = self.probability[:, *extent.slices_in(self.whole)]
        return mask, np.where(mask == NODATA, 0, probability)
