"""Tracing by blocks: each by itself, anywhere, then joined by a tree of small steps.

    blocks ──trace_block──▶ complete shapes, and pieces of those that reach a side
    4 × 4 blocks ──join_blocks──▶ shapes that are complete now, and pieces that reach a side of all
    … until one block is the whole, which has no side

The same shapes as those of `trace`, bit for bit: a block sees one column and one row of its
neighbours, so that both know the same pixels along a side, answers for its own lattice points
alone, and hands pieces on as corners, never as geometry. What a step holds is what reaches its
sides, and the shapes that it completes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tilingseg.grid import Window
from tilingseg.vectorize.rings import close_rings
from tilingseg.vectorize.strips import Measures, Strip, TracedStrip, connect, trace_strip

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tilingseg.records import MaskReader


def trace_block(mask: MaskReader, value: int, block: Window, whole: Window) -> TracedStrip:
    """Trace the components of one class in one block.

    Args:
        mask: the mask of the whole scene.
        value: mask value of the class, 1…254.
        block: pixels to answer for.
        whole: all blocks together; no pixel beyond it is of the class.

    Returns:
        The complete components in the order of their last pixel, and pieces of the others.
    """
    above, left = int(block.row > whole.row), int(block.col > whole.col)
    window = Window(
        row=block.row - above,
        col=block.col - left,
        height=block.height + above,
        width=block.width + left,
    )
    inside = mask.read_mask(window) == value
    probability = mask.read_probability(value - 1, window) if inside.any() else None
    traced = trace_strip(
        Strip(
            row=block.row,
            above=inside[0] if above else np.zeros(window.width, dtype=np.bool_),
            inside=inside[above:],
            is_last=block.row_stop == whole.row_stop,
            probability=None if probability is None else probability[above:],
            col=window.col,
            lattice_px=mask.width + 1,
            has_left=bool(left),
            has_right=block.col_stop < whole.col_stop,
        )
    )
    order = np.argsort(traced.complete.last)
    return replace(traced, polygons=traced.polygons[order], complete=traced.complete.take(order))


def join_blocks(blocks: Sequence[Sequence[TracedStrip]], lattice_px: int) -> TracedStrip:
    """Join the blocks of a rectangle to one.

    Args:
        blocks: rows of blocks, from the top and the left.
        lattice_px: lattice points in a row of the scene: its width + 1.

    Returns:
        The components that have become complete, in the order of their last pixel, and pieces of
        those that reach a side of the rectangle.
    """
    flat = [block for row in blocks for block in row]
    offsets = np.cumsum([0, *(len(block.corners) for block in flat)])
    first = offsets[:-1].reshape(len(blocks), len(blocks[0]))
    n_groups, group = connect(*_links(blocks, first), int(offsets[-1]))
    measures = _together([block.pieces for block in flat])
    measures = _together([]).join(measures, group, n_groups)
    corners: list[list[NDArray[np.int64]]] = [[] for _ in range(n_groups)]
    every = (part for block in flat for part in block.corners)
    for index, part in zip(group.tolist(), every, strict=True):
        corners[index].append(part)

    last_row, last_col = len(blocks) - 1, len(blocks[0]) - 1
    sides = [
        group[np.concatenate([b.top + first[0, j] for j, b in enumerate(blocks[0])])],
        group[np.concatenate([b.bottom + first[last_row, j] for j, b in enumerate(blocks[-1])])],
        group[np.concatenate([row[0].left + first[i, 0] for i, row in enumerate(blocks)])],
        group[np.concatenate([row[-1].right + first[i, last_col] for i, row in enumerate(blocks)])],
    ]
    still_open = np.unique(np.concatenate(sides))
    closed = np.setdiff1d(np.arange(n_groups), still_open)
    closed = closed[np.argsort(measures.last[closed])]
    top, bottom, left, right = (np.searchsorted(still_open, side) for side in sides)
    return TracedStrip(
        polygons=_polygons([corners[index] for index in closed.tolist()], lattice_px),
        complete=measures.take(closed),
        top=top,
        bottom=bottom,
        left=left,
        right=right,
        pieces=measures.take(still_open),
        corners=[np.concatenate(corners[index]) for index in still_open.tolist()],
    )


def _links(
    blocks: Sequence[Sequence[TracedStrip]], first: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the pieces that are one, on both sides of every line between two blocks.

    Args:
        blocks: rows of blocks.
        first: number of each block's first piece.
    """
    before, after = [np.empty(0, dtype=np.intp)], [np.empty(0, dtype=np.intp)]
    for i, row in enumerate(blocks):
        for j, block in enumerate(row):
            if j + 1 < len(row):
                before.append(block.right + first[i, j])
                after.append(row[j + 1].left + first[i, j + 1])
            if i + 1 < len(blocks):
                before.append(block.bottom + first[i, j])
                after.append(blocks[i + 1][j].top + first[i + 1, j])
    return np.concatenate(before), np.concatenate(after)


def _together(parts: Sequence[Measures]) -> Measures:
    empty = np.empty(0, dtype=np.int64)
    return Measures(
        n_pixels=np.concatenate([empty, *(part.n_pixels for part in parts)]),
        probability=np.concatenate([empty, *(part.probability for part in parts)]),
        last=np.concatenate([empty, *(part.last for part in parts)]),
    )


def _polygons(corners: list[list[NDArray[np.int64]]], lattice_px: int) -> NDArray[np.object_]:
    if not corners:
        return np.empty(0, dtype=np.object_)
    whole = [np.concatenate(parts) for parts in corners]
    owner = np.repeat(np.arange(len(whole)), [len(codes) for codes in whole])
    return close_rings(np.concatenate(whole), owner, lattice_px)
