"""Hypothesis strategies that several test modules share."""

from hypothesis import strategies as st

from tilingseg.grid import TileGrid, Window


@st.composite
def grids(draw, max_side_px=90, multiples=(1, 2, 4)):
    """Draw any legal grid: scenes smaller than a tile, primes, overlaps over a half."""
    multiple = draw(st.sampled_from(multiples))
    size = draw(st.integers(1, 12)) * multiple
    pairs = (size - 1) // (2 * multiple)
    overlap = draw(st.integers(0, pairs)) * 2 * multiple
    return TileGrid(
        height=draw(st.integers(1, max_side_px)),
        width=draw(st.integers(1, max_side_px)),
        tile_size_px=size,
        overlap_px=overlap,
        multiple_px=multiple,
    )


@st.composite
def windows_in(draw, height, width):
    """Draw a window inside a scene of (height, width) px."""
    row = draw(st.integers(0, height - 1))
    col = draw(st.integers(0, width - 1))
    return Window(
        row=row,
        col=col,
        height=draw(st.integers(1, height - row)),
        width=draw(st.integers(1, width - col)),
    )
