"""Where the outputs of a scene go: the names in its folder, and what may stand there already."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tilingseg.errors import OutputError, PlanError
from tilingseg.places import is_remote, place, refusals, why
from tilingseg.vectorize.layers import VectorOptions

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tilingseg.plan import RunPlan

WORK = ".tilingseg-work"
"""Folder of the work store. It is removed when a run ends, so no one else may call one so."""
RASTER_FORMATS = ("cog", "zarr")
VECTOR_SUFFIXES = {
    "geojson": ".geojson",
    "geojsonseq": ".geojsonl",
    "gpkg": ".gpkg",
    "fgb": ".fgb",
    "parquet": ".parquet",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """What is written."""

    formats: tuple[str, ...] = ("cog", "geojson")
    """Of `RASTER_FORMATS` and `VECTOR_SUFFIXES`."""
    probability: bool = False
    """Write the probabilities too."""
    vectors: VectorOptions = field(default_factory=VectorOptions)
    """How masks become vectors."""

    @property
    def needs_probability(self) -> bool:
        """Whether anything that is written is made from probabilities."""
        return self.probability or any(name in VECTOR_SUFFIXES for name in self.formats)

    def __post_init__(self) -> None:
        """Refuse unknown formats.

        Raises:
            PlanError: with the ones that exist.
        """
        known = (*RASTER_FORMATS, *VECTOR_SUFFIXES)
        for name in self.formats:
            if name not in known:
                raise PlanError(f"output format {name!r} is none of {', '.join(known)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFolder:
    """Where the outputs of one scene stand."""

    path: Path
    """The folder."""
    scene: str
    """Name of the scene, first part of the file names."""

    @classmethod
    def of(cls, plan: RunPlan, out_dir: str | Path | None) -> OutputFolder:
        """Return the folder that was asked for, or the default one."""
        path = place(f"{plan.scene.name}_tilingseg" if out_dir is None else out_dir)
        return cls(path=path, scene=plan.scene.name)

    @property
    def work(self) -> Path:
        """Folder of the work store."""
        return self.path / WORK

    @property
    def report(self) -> Path:
        """The file that is written last."""
        return self.path / "run.json"

    @property
    def preview(self) -> Path:
        """The picture of the results."""
        return self.path / "preview.png"

    def of_layer(self, layer: str, suffix: str) -> Path:
        """Return the path of one output."""
        return self.path / f"{self.scene}_{layer}{suffix}"

    def check(self, *, overwrite: bool) -> None:
        """Make the folder and see that it can be written and holds nothing that would be lost.

        Raises:
            OutputError: it cannot be written, or holds outputs and `overwrite` is off.
        """
        self.make()
        # the outputs of an interrupted run are its own to replace
        if not (overwrite or (self.work / "plan.json").exists()):
            _refuse_standing(
                [self.report, self.preview, *sorted(self.path.glob(f"{self.scene}_*"))]
            )

    def check_layers(
        self, names: Iterable[str], options: OutputOptions, *, overwrite: bool
    ) -> None:
        """Do the same where nothing but vector layers will be written."""
        self.make()
        suffixes = [VECTOR_SUFFIXES[name] for name in options.formats if name in VECTOR_SUFFIXES]
        if not suffixes:
            raise PlanError(f"choose a vector format: {', '.join(VECTOR_SUFFIXES)}")
        if not overwrite:
            _refuse_standing([self.of_layer(n, suffix) for n in names for suffix in suffixes])

    def make(self) -> None:
        """Make the folder and see that it can be written.

        Raises:
            OutputError: it cannot.
        """
        try:
            if not is_remote(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                # left where a complete run was killed while it cleaned up
                shutil.rmtree(self.work.with_name(self.work.name + ".part"), ignore_errors=True)
            probe = self.path / "run.json.part"
            probe.touch()
            probe.unlink()
        except refusals() as error:
            raise OutputError(
                f"the output folder {self.path} cannot be written: {why(error)}"
            ) from error


def _refuse_standing(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.exists():
            raise OutputError(
                f"{path} exists; replace it with --overwrite or choose another folder"
            )
