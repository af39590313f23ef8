"""The numbers of a recipe within what they can mean: one check that every record of options makes.

A number out of range would otherwise show as a traceback from deep inside, or as a model that
learnt nothing, an hour later.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tilingseg.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def refuse_outside(
    part: str,
    options: object,
    *,
    positive: Iterable[str] = (),
    not_negative: Iterable[str] = (),
    shares: Iterable[str] = (),
) -> None:
    """Refuse options that are out of their range, or no finite number.

    Args:
        part: of the recipe, for the message.
        options: record with a number, or a tuple of numbers, under each name.
        positive: names of what must be above 0.
        not_negative: names of what must be at least 0.
        shares: names of what must be in 0…1.

    Raises:
        TrainingError: naming the key, its value and its range.
    """
    kinds: tuple[tuple[Iterable[str], str, Callable[[float], bool]], ...] = (
        (positive, "above 0", lambda value: value > 0),
        (not_negative, "at least 0", lambda value: value >= 0),
        (shares, "0 to 1", lambda value: 0 <= value <= 1),
    )
    for names, wanted, fits in kinds:
        for name in names:
            value = getattr(options, name)
            each = value if isinstance(value, tuple) else (value,)
            if not all(math.isfinite(number) and fits(number) for number in each):
                shown = ", ".join(map(str, each))
                raise TrainingError(f"{part}: {name} is {shown}, must be {wanted}")
