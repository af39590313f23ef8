"""Where the outputs of a scene go: the names in its folder, and what may stand there already.

Layers are named after classes, which come from anybody's models and masks. Their files get names
that every file system takes; where two layers would get one, nothing is begun.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tilingseg.errors import OutputError, PlanError
from tilingseg.places import is_remote, place, plain_name, refusals, unsigned, upload, why
from tilingseg.vectorize.layers import VectorOptions, layer_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tilingseg.plan import RunPlan
    from tilingseg.records import MaskReader

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

_MAX_NAME_BYTES = 240
"""Most that a file name may have: file systems take 255, and files have longer names while they are
written."""


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
        """Refuse formats that are unknown, none at all, and those that drop what was asked for.

        Raises:
            PlanError: with the ones that exist.
        """
        known = (
            f"{', '.join(VECTOR_SUFFIXES)} (vectors) and {', '.join(RASTER_FORMATS)} (masks of a "
            "run)"
        )
        if not self.formats:
            raise PlanError(f"no output format is named; choose of {known}")
        for name in self.formats:
            if name not in (*RASTER_FORMATS, *VECTOR_SUFFIXES):
                raise PlanError(f"output format {name!r} is none of {known}")
        if self.probability and not set(self.formats) & set(RASTER_FORMATS):
            raise PlanError(
                "probabilities are kept in rasters: add one of the formats "
                f"{', '.join(RASTER_FORMATS)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFolder:
    """Where the outputs of one scene stand."""

    path: Path
    """The folder."""
    scene: str
    """Name of the scene, first part of the file names."""

    @classmethod
    def of(cls, scene: str, out_dir: str | Path | None) -> OutputFolder:
        """Return the folder that was asked for, or the default one, of the scene of a name."""
        path = place(f"{scene}_tilingseg" if out_dir is None else out_dir)
        return cls(path=path, scene=scene)

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

    def name_of(self, layer: str) -> str:
        """Return the name of a layer of this scene: that of its files, without their suffix."""
        return f"{self.scene}_{plain_name(layer, 'layer')}"

    def of_layer(self, layer: str, suffix: str) -> Path:
        """Return the path of one output."""
        return self.path / f"{self.name_of(layer)}{suffix}"

    def files(self, layers: Iterable[str], options: OutputOptions) -> list[Path]:
        """Return all that a run writes for its vector layers and formats."""
        return [self.report, self.preview, *self._rasters(options), *self._vectors(layers, options)]

    def _rasters(self, options: OutputOptions) -> list[Path]:
        cog = [("mask", ".tif"), ("mask", ".tif.aux.xml")]
        cog += [("probability", ".tif")] * options.probability
        names = cog * ("cog" in options.formats) + [("mask", ".zarr")] * ("zarr" in options.formats)
        return [self.of_layer(layer, suffix) for layer, suffix in names]

    def _vectors(self, layers: Iterable[str], options: OutputOptions) -> list[Path]:
        suffixes = [VECTOR_SUFFIXES[name] for name in options.formats if name in VECTOR_SUFFIXES]
        suffixes += [".qml"] * bool(suffixes)  # the style, once a layer
        return [self.of_layer(layer, suffix) for layer in layers for suffix in suffixes]

    def check(
        self,
        plan: RunPlan,
        options: OutputOptions,
        agreed: frozenset[str] = frozenset(),
        *,
        overwrite: bool,
    ) -> frozenset[str]:
        """Make the folder and see that it can be written and holds nothing that would be lost.

        Args:
            plan: which classes become vectors.
            options: what will be written.
            agreed: names that an interrupted run of this scene may write: nothing stood there when
                it began, or what stood there was given up.
            overwrite: the outputs of an earlier run of this scene may be replaced.

        Returns:
            Names that may be written from now on.

        Raises:
            OutputError: it cannot be written, holds the results of another scene, or holds outputs
                and `overwrite` is off.
        """
        self.make()
        self._refuse_other_scene(plan.scene.uri)
        layers = layer_names(plan.model.spec.classes, plan.model.class_indexes)
        files = self.files(layers, options)
        if not overwrite:
            _refuse_standing(path for path in files if path.name not in agreed)
        return agreed | {path.name for path in files}

    def refuse_complete(self) -> None:
        """Refuse a folder with the results of a complete run; opens no scene.

        Raises:
            OutputError: there are some.
        """
        if not (self.work / "plan.json").exists():
            _refuse_standing([self.report])

    def _refuse_other_scene(self, uri: str) -> None:
        """Refuse a folder whose report tells of another scene: its results would be removed.

        A scene may have moved since, but not be another file that gets the same name.
        """
        try:
            text = self.report.read_text(encoding="utf-8")
            scene = json.loads(text)["plan"]["scene"]
            name, earlier = scene["name"], scene["uri"]
            is_same = name == self.scene and _file_name(earlier) == _file_name(uri)
        except FileNotFoundError:
            return
        except refusals(ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(
                f"{self.report} exists and is no report of a run; choose another folder"
            ) from error
        if not is_same:
            raise OutputError(
                f"{self.path} holds the results of another scene, {earlier}; give each scene a "
                "folder of its own, as `tilingseg batch` does"
            )

    def check_layers(
        self,
        mask: MaskReader,
        class_indexes: Sequence[int],
        options: OutputOptions,
        *,
        overwrite: bool,
    ) -> None:
        """Do the same where nothing but vector layers will be written."""
        if not set(options.formats) & set(VECTOR_SUFFIXES):
            raise PlanError(f"choose a vector format: {', '.join(VECTOR_SUFFIXES)}")
        self.refuse_names(mask.classes, class_indexes, options)
        self.make()
        if not overwrite:
            layers = layer_names(mask.classes, class_indexes)
            _refuse_standing(self._vectors(layers, options))

    def refuse_names(
        self, classes: Sequence[str], class_indexes: Sequence[int], options: OutputOptions
    ) -> None:
        """Refuse classes that files cannot be named after; nothing is made.

        Args:
            classes: all of the model or mask.
            class_indexes: those that become vectors.
            options: what will be written.

        Raises:
            PlanError: two layers would have one file, or a name or the folder is no good for files.
        """
        if set(options.formats) & set(VECTOR_SUFFIXES):
            self._refuse_shared_names(classes, class_indexes)
        self._refuse_unwritable(layer_names(classes, class_indexes), options)

    def _refuse_shared_names(self, classes: Sequence[str], class_indexes: Sequence[int]) -> None:
        """Refuse classes of which one would overwrite files of another."""
        owners: dict[str, str] = {}
        for index in class_indexes:
            name = classes[index]
            for layer in layer_names(classes, (index,)):
                stem = self.name_of(layer)
                other = owners.setdefault(stem.casefold(), name)  # Windows and macOS know no case
                if other != name:
                    raise PlanError(
                        f"classes {other!r} and {name!r} would both write {stem}.*; choose one of "
                        "them with --classes, and another folder for the other"
                    )

    def _refuse_unwritable(self, layers: Iterable[str], options: OutputOptions) -> None:
        """Refuse names and folders that files cannot be written under."""
        for path in self.files(layers, options):
            if (n_bytes := len(os.fsencode(path.name))) > _MAX_NAME_BYTES:
                raise PlanError(
                    f"the file name {path.name[:60]}… has {n_bytes} bytes, and {_MAX_NAME_BYTES} "
                    "can be written; rename the scene, or leave the class out with --classes"
                )
        archived = [name for name in ("gpkg", "fgb") if name in options.formats]
        if archived and "!" in str(self.path) and not is_remote(self.path):
            raise PlanError(  # what writes them takes it for the name of an archive
                f"{' and '.join(archived)} cannot be written into {self.path}: there is a '!' in "
                "its path; choose another folder or format"
            )

    @contextmanager
    def at_hand(self) -> Iterator[OutputFolder]:
        """Give this folder to write to; for one on an object store one of this machine.

        What was written there is copied when the block ends well.

        Raises:
            OutputError: it cannot be written.
        """
        if not is_remote(self.path):
            yield self
            return
        with tempfile.TemporaryDirectory(prefix="tilingseg-") as here:
            yield OutputFolder(path=Path(here), scene=self.scene)
            try:
                upload(sorted(Path(here).iterdir()), self.path)
            except refusals() as error:
                raise OutputError(f"cannot write into {self.path}: {why(error)}") from error

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
            probe = self.path / ".probe"  # an output that was half written may have any other name
            probe.touch()
            probe.unlink(missing_ok=True)  # others may look at the same time
        except refusals() as error:
            raise OutputError(
                f"the output folder {self.path} cannot be written: {why(error)}"
            ) from error


def _file_name(uri: str) -> str:
    """Return the last part of a path or URL, with what is asked for behind it."""
    base, mark, query = unsigned(uri).partition("?") if "://" in uri else (uri, "", "")
    return base.replace("\\", "/").rstrip("/").rpartition("/")[2] + mark + query


def _refuse_standing(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.exists():
            raise OutputError(
                f"{path} exists; replace it with --overwrite or choose another folder"
            )
