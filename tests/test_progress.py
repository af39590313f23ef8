import numpy as np
import pytest

from tests.fakes import UTM
from tilingseg.grid import Window
from tilingseg.progress import StoppedError, Watch, WatchedMask, silent


class Plain:
    """A MaskReader over zeros."""

    height, width, georef, classes = 30, 20, UTM, ("building",)

    def read_mask(self, window):
        return np.zeros((window.height, window.width), np.uint8)

    def read_probability(self, class_index, window):
        return None


def test_a_watch_counts_tiles_until_it_is_told_to_stop():
    seen = []
    watch = Watch(seen.append)
    watch.passed(3)
    watch.passed(4)
    watch.stop()
    assert watch.stopped
    with pytest.raises(StoppedError, match="another region failed"):
        watch.passed(5)
    assert seen == [3, 4]


def test_a_watched_mask_tells_how_far_down_it_has_been_read():
    told = []
    mask = WatchedMask(Plain(), lambda *step: told.append(step))
    for stage in ("building", "road"):
        mask.begin(stage)
        for row in (0, 10, 5, 20):  # going back is no progress
            mask.read_mask(Window(row=row, col=0, height=10, width=20))
    assert told == [(s, done, 30) for s in ("building", "road") for done in (10, 20, 30)]
    assert (mask.height, mask.width, mask.classes) == (30, 20, ("building",))
    assert mask.read_probability(0, Window(row=0, col=0, height=1, width=1)) is None


def test_silence_is_a_progress():
    assert silent("tiles", 1, 2) is None
