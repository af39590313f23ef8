"""Rows of different lengths, laid one after the other: the arithmetic of many rings at once.

A batch of rings is a few long arrays and the offsets where each ring begins. What is computed for a
row uses that row alone and always in the same order, so that its bits do not depend on its company.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Indexes = NDArray[np.intp]


def offsets_of(counts: Indexes) -> Indexes:
    """Return where each row begins, and where the last one ends: intp (rows + 1,)."""
    offsets = np.zeros(len(counts) + 1, np.intp)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def spread(counts: Indexes) -> tuple[Indexes, Indexes]:
    """Return, for every element of rows of these lengths, its row and its place in the row."""
    row = np.repeat(np.arange(len(counts)), counts)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)


def totals(row: Indexes, values: NDArray[np.float64], n_rows: int) -> NDArray[np.float64]:
    """Add up the values of every row, one after the other; an empty row gives 0."""
    return np.bincount(row, weights=values, minlength=n_rows).astype(np.float64, copy=False)


def first_largest(values: NDArray[np.float64], offsets: Indexes) -> Indexes:
    """Return the place of each row's largest value in the whole array; of equal ones the first.

    Args:
        values: float64 (n,), no NaN.
        offsets: intp (rows + 1,); no row is empty.
    """
    largest = np.maximum.reduceat(values, offsets[:-1])
    found = np.flatnonzero(values == np.repeat(largest, np.diff(offsets)))
    return found[np.searchsorted(found, offsets[:-1])]


def replaced(offsets: Indexes, rows: Indexes, other_offsets: Indexes) -> tuple[Indexes, Indexes]:
    """Put other rows in the place of some.

    Args:
        offsets: of all rows.
        rows: those which are replaced.
        other_offsets: of what replaces them, in the same order, laid after all rows.

    Returns:
        The new offsets, and for each element its place in the array of both.
    """
    first, counts = offsets[:-1].copy(), np.diff(offsets)
    first[rows] = offsets[-1] + other_offsets[:-1]
    counts[rows] = np.diff(other_offsets)
    row, place = spread(counts)
    return offsets_of(counts), first[row] + place


def groups(sizes: Indexes, limit: int) -> Iterator[Indexes]:
    """Divide rows into groups of similar size, the small ones first.

    Args:
        sizes: intp (rows,), what a row takes along each of two axes when rows are padded.
        limit: most elements of a padded group; a larger row is a group by itself.
    """
    order = np.argsort(sizes, kind="stable")
    ranked = sizes[order].tolist()
    first = 0
    while first < len(ranked):
        last = first + 1
        while (
            last < len(ranked)
            and ranked[last] <= 1.2 * ranked[first] + 1
            and (last + 1 - first) * ranked[last] ** 2 <= limit
        ):
            last += 1
        yield order[first:last]
        first = last
