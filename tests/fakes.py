"""In-memory stand-ins for the contracts between stages."""

import threading
from dataclasses import replace

import numpy as np
import torch

from tilingseg.errors import SceneError
from tilingseg.records import Band, Georef, Scene

UTM = Georef(
    crs="EPSG:32633", transform=(0.5, 0.0, 500_000.0, 0.0, -0.5, 5_000_000.0), pixel_m=(0.5, 0.5)
)


class ArrayReader:
    """A SceneReader over an array (bands, height, width); counts and may fail on purpose."""

    def __init__(self, pixels, valid=None, georef=UTM, fail_at=None, has_overview=False):
        self.pixels = pixels
        n_bands, height, width = pixels.shape
        self.valid = np.ones((height, width), dtype=bool) if valid is None else valid
        self.windows = []
        self.fail_at = fail_at
        self.has_overview = has_overview
        self._lock = threading.Lock()
        self.scene = Scene(
            uri="memory",
            name="memory",
            revision="1",
            height=height,
            width=width,
            bands=tuple(Band(index=i + 1, name=f"band {i + 1}") for i in range(n_bands)),
            dtype=pixels.dtype.name,
            georef=georef,
            source=georef,
            source_shape=(height, width),
        )

    def read(self, window):
        with self._lock:
            self.windows.append(window)
            if self.fail_at is not None and len(self.windows) > self.fail_at:
                raise SceneError("block 7 is damaged")
        inside = window.slices_in(
            replace(window, row=0, col=0, height=self.scene.height, width=self.scene.width)
        )
        return self.pixels[:, *inside].copy(), self.valid[inside].copy()

    def may_hold_data(self, window):
        inside = window.intersection(
            replace(window, row=0, col=0, height=self.scene.height, width=self.scene.width)
        )
        if not self.has_overview or inside is None:
            return not self.has_overview
        return bool(self.valid[inside.row : inside.row_stop, inside.col : inside.col_stop].any())

    def read_reduced(self, max_side_px):
        step = max(1, -(-max(self.valid.shape) // max_side_px))
        return self.pixels[:, ::step, ::step], self.valid[::step, ::step]

    def close(self):
        pass


class IdentityEngine:
    """Gives the stored values back as probabilities: value / 255; one class a band."""

    def __init__(self, limit=None):
        self.batches = []
        self.n_refused = 0
        self.limit = limit

    def probabilities(self, pixels, valid, part):
        if self.limit is not None and len(pixels) > self.limit:
            self.n_refused += 1
            raise torch.OutOfMemoryError("pretended")
        self.batches.append(len(pixels))
        pixels, valid = pixels[:, :, *part], valid[:, *part]
        return torch.from_numpy(pixels.astype(np.float32) / 255) * torch.from_numpy(valid)[:, None]
