"""One source of a recipe: rasters of one origin, and what their labels say and do not say.

A key that contradicts another one, or that would have no effect, is refused here: it would show as
a class that is never learnt, or as background that nobody has seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tilingseg.errors import TrainingError
from tilingseg.training.limits import refuse_outside

_UNLABELLED = (255,)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLabel:
    """Where the labels of one class come from, in one source."""

    name: str
    """The class."""
    values: tuple[int, ...] | None = None
    """Its values in the mask rasters, none where it does not occur; None: it comes from vectors."""
    vectors: str | None = None
    """File of polygons or lines for each raster, as `labels/{}.geojson`; None: it comes from the
    masks."""
    width_m: float | None = None
    """Width of what the lines of `vectors` are the middle of, as roads: metres on the ground, or
    pixels of rasters that do not say their size. None: there are no lines."""
    unlabelled: tuple[int, ...] = ()
    """Mask values that say nothing about this class. A road is no building even where buildings
    are not labelled: no values, and the background unlabelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecipe:
    """Rasters of one origin, with the labels that they have."""

    name: str
    """Origin or region; metrics are reported under it."""
    split: Literal["train", "validation", "test", "blocks"]
    """Whether weights are fitted to it, choices are made on it, or it is kept for the last
    measurement; one area has one use. `blocks`: some square blocks of every raster are validation,
    the rest is training."""
    rasters: str
    """Pattern of the raster files. What its `*` match fills the `{}` of the label files."""
    classes: tuple[ClassLabel, ...]
    """Classes that are labelled here. The others are unknown, which is not background."""
    licence: str
    """Origin and licence in one line; goes into the model's spec."""
    include: tuple[str, ...] = ("*",)
    """Patterns of file names of which one must match."""
    exclude: tuple[str, ...] = ()
    """Patterns of file names that are left out."""
    labelled: str | None = None
    """File of polygons for each raster, as `labels/{}_area.geojson`: only within them anything is
    labelled, and where they hold no label is background. None: all of the raster."""
    mask: str | None = None
    """Mask raster for each raster, as `masks/{}.png`; with a georeference it may cover a part of
    the raster, and only that part is used."""
    unlabelled: tuple[int, ...] | None = None
    """Mask values that say nothing about any class, those from vectors included; `[]` where every
    value says something. None: 255."""
    rows: tuple[float, float] = (0.0, 1.0)
    """Part of the labelled height that is used, from top 0 to bottom 1."""
    block_px: int = 512
    """Side of the blocks of a split by blocks, px at the model's GSD."""
    held_out: float = 0.2
    """Share of the blocks that is validation, 0…1."""
    gsd_m: float | None = None
    """Ground pixel size, metres, for files that do not say it."""
    weight: float = 1.0
    """Share of the training windows, relative to the other sources."""

    @property
    def silent_values(self) -> tuple[int, ...]:
        """Mask values that say nothing about any class."""
        return _UNLABELLED if self.unlabelled is None else self.unlabelled

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from, split or found, and labels that contradict each other.

        Raises:
            TrainingError: naming the key, its value and what it must be.
        """
        where = f"source {self.name!r}"
        refuse_outside(where, self, positive=("weight", "block_px"))
        if not 0 <= self.rows[0] < self.rows[1] <= 1:
            raise TrainingError(f"{where}: rows {self.rows} are no part of 0…1")
        if not 0 < self.held_out < 1:
            raise TrainingError(f"{where}: held_out must be between 0 and 1, got {self.held_out}")
        if not self.rasters or self.rasters.startswith("/"):
            raise TrainingError(
                f"{where}: rasters is {self.rasters!r}, must be a path or pattern within the data"
            )
        stars = ("x",) * self.rasters.count("*")
        for pattern in (self.mask, self.labelled, *(label.vectors for label in self.classes)):
            try:
                _ = pattern and pattern.format(*stars)
            except (LookupError, ValueError, AttributeError):
                raise TrainingError(
                    f"{where}: {pattern!r} may have a {{}} for each of the {len(stars)} stars in "
                    f"{self.rasters!r}, and no other braces"
                ) from None
        self._refuse_unused()
        for label in self.classes:
            self._refuse_contradictions(label)

    def _refuse_unused(self) -> None:
        where = f"source {self.name!r}"
        names = [label.name for label in self.classes]
        if twice := [name for name in names if names.count(name) > 1]:
            raise TrainingError(
                f"{where}: class {twice[0]!r} is listed twice, of which one would count; "
                "put all its values into one"
            )
        silent = [label.name for label in self.classes if label.unlabelled]
        if self.mask is None and (self.unlabelled is not None or silent):
            raise TrainingError(
                f"{where}: unlabelled names values of a mask, and there is none; "
                "labelled = 'area.geojson' says which area is labelled"
            )

    def _refuse_contradictions(self, label: ClassLabel) -> None:
        where = f"source {self.name!r}: class {label.name!r}"
        if (label.values is None) == (label.vectors is None):
            raise TrainingError(f"{where} needs mask values or vectors, and not both")
        if label.values is not None and self.mask is None:
            raise TrainingError(f"source {self.name!r} has mask values but no mask")
        if label.width_m is not None:
            refuse_outside(where, label, positive=("width_m",))
            if label.vectors is None:
                raise TrainingError(f"{where}: width_m is for lines, and it comes from a mask")
        for value in label.values or ():
            if value in label.unlabelled:
                raise TrainingError(
                    f"{where}: {value} is among its values and its unlabelled ones; "
                    "leave it out of one of them"
                )
            if value in self.silent_values:
                rest = [other for other in self.silent_values if other != value]
                raise TrainingError(
                    f"{where} has the value {value}, which is unlabelled in this source"
                    f"{' unless it says otherwise' if self.unlabelled is None else ''}: "
                    f"write unlabelled = {rest} beside its mask"
                )
