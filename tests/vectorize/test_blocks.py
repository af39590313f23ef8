"""Blocks traced by themselves and joined by a tree give the shapes of one pass, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vectorize.test_trace import ArrayMask
from tilingseg.grid import Window
from tilingseg.records import BACKGROUND
from tilingseg.vectorize.blocks import join_blocks, trace_block
from tilingseg.vectorize.trace import shapes_of, trace


def by_tree(mask, whole, side_px, fan):
    """Trace blocks of `whole` and join `fan` × `fan` of them at a time."""
    blocks = [
        [
            trace_block(
                mask,
                1,
                Window(
                    row=row,
                    col=col,
                    height=min(side_px, whole.row_stop - row),
                    width=min(side_px, whole.col_stop - col),
                ),
                whole,
            )
            for col in range(whole.col, whole.col_stop, side_px)
        ]
        for row in range(whole.row, whole.row_stop, side_px)
    ]
    found = [shape for row in blocks for block in row for shape in shapes(mask, block)]
    while len(blocks) > 1 or len(blocks[0]) > 1:
        blocks = [
            [
                join_blocks([row[col : col + fan] for row in blocks[i : i + fan]], mask.width + 1)
                for col in range(0, len(blocks[0]), fan)
            ]
            for i in range(0, len(blocks), fan)
        ]
        found += [shape for row in blocks for block in row for shape in shapes(mask, block)]
    assert not blocks[0][0].corners
    return sorted(found, key=lambda shape: shape.last)


def shapes(mask, block):
    has_probability = mask.probabilities is not None
    return list(shapes_of(1, has_probability, block.polygons, block.complete))


def facts(shapes):
    return [(shape.polygon.wkb, shape.confidence, shape.last) for shape in shapes]


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    density=st.sampled_from([0.4, 0.6, 0.85, 1.0]),
    side_px=st.integers(1, 15),
    fan=st.integers(2, 4),
    has_probability=st.booleans(),
)
def test_the_tree_gives_the_shapes_of_one_pass(seed, shape, density, side_px, fan, has_probability):
    rng = np.random.default_rng(seed)
    values = (rng.random(shape) < density).astype(np.uint8)
    probability = rng.integers(0, 256, (1, *shape), dtype=np.uint8) if has_probability else None
    mask = ArrayMask(values, probability)
    whole = Window(row=0, col=0, height=shape[0], width=shape[1])
    assert facts(by_tree(mask, whole, side_px, fan)) == facts(trace(mask, 1))


@pytest.mark.parametrize("side_px", [3, 7, 100])
def test_a_part_of_the_scene_is_enough_where_the_rest_is_empty(side_px):
    rng = np.random.default_rng(1)
    values = np.full((40, 50), BACKGROUND, dtype=np.uint8)
    values[10:31, 5:47] = rng.random((21, 42)) < 0.6
    mask = ArrayMask(values)
    whole = Window(row=10, col=5, height=21, width=42)
    assert facts(by_tree(mask, whole, side_px, 2)) == facts(trace(mask, 1))


def test_what_a_block_hands_on_depends_on_its_sides_alone():
    values = np.zeros((256, 256), dtype=np.uint8)
    values[::4, ::4] = 1  # 4,096 shapes, none of which reaches a right or lower side
    mask = ArrayMask(values)
    whole = Window(row=0, col=0, height=256, width=256)
    block = trace_block(mask, 1, Window(row=64, col=64, height=128, width=128), whole)
    assert len(block.polygons) == 32 * 32
    assert not block.corners
