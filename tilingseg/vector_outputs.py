"""From a mask to vector files: every layer in every format that was asked for.

Features are computed once. Where several readers want them (two formats, the preview), they wait on
disk, so that memory does not grow with their number; a single format is written as they come. They
wait beside the outputs, where there is room, in a file without a name, which no other process can
meet and which is gone with this one, however it ends.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, TYPE_CHECKING

import numpy as np
import shapely

from tilingseg.errors import OutputError
from tilingseg.features import Layer, write_features, write_style
from tilingseg.output_folder import VECTOR_SUFFIXES
from tilingseg.palette import class_colour
from tilingseg.progress import WatchedMask
from tilingseg.records import Feature
from tilingseg.vectorize.layers import vector_layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from shapely.geometry.base import BaseGeometry

    from tilingseg.output_folder import OutputFolder, OutputOptions
    from tilingseg.progress import Progress
    from tilingseg.records import MaskReader
    from tilingseg.vectorize.layers import Gathered

_BATCH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What of a mask is vectorised."""

    class_indexes: tuple[int, ...]
    """Positions in the mask's classes."""
    thresholds: tuple[float, ...]
    """Probability from which a pixel belonged to the class, for every class."""
    n_outlines: int = 0
    """Outlines that are handed back for a preview, at most."""
    gathered: Gathered | None = None
    """Parts of the vectors that are there already."""


@dataclass(slots=True)
class Results:
    """What has been written so far."""

    outputs: list[tuple[str, str]] = field(default_factory=list)
    """(kind, path) pairs."""
    n_features: dict[str, int] = field(default_factory=dict)
    """By layer."""
    left_out: Counter[str] = field(default_factory=Counter)
    """By what and why."""
    notes: list[str] = field(default_factory=list)
    """What the user should know of a mask; a run has told it of its scene."""
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to that of a stage."""
        start = time.perf_counter()
        yield
        spent = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        self.seconds[stage] = round(spent, 3)


def write_vectors(
    mask: MaskReader,
    wanted: Wanted,
    folder: OutputFolder,
    options: OutputOptions,
    results: Results,
    progress: Progress,
) -> list[BaseGeometry]:
    """Write every layer of a mask in every vector format.

    Args:
        mask: what is vectorised.
        wanted: which of its classes.
        folder: where the files go.
        options: formats, and how the vectors are made.
        results: paths and counts are added here.
        progress: told how far down the mask has been read.

    Returns:
        Outlines for a preview, in pixel coordinates.

    Raises:
        OutputError: the disk is full or gone.
    """
    suffixes = [VECTOR_SUFFIXES[name] for name in options.formats if name in VECTOR_SUFFIXES]
    outlines: list[BaseGeometry] = []
    if not suffixes:
        return outlines
    is_read_twice = len(suffixes) > 1 or wanted.n_outlines > 0
    watched = WatchedMask(mask, progress)
    for found in vector_layers(
        watched,
        wanted.class_indexes,
        wanted.thresholds,
        options.vectors,
        results.left_out,
        wanted.gathered,
    ):
        watched.begin(found.name)
        layer = Layer(
            name=folder.name_of(found.name),
            georef=mask.georef,
            geometry_type=found.geometry_type,
            numbers=found.numbers,
            color=class_colour(found.class_index),
        )
        with ExitStack() as held:
            features: Iterable[Feature] = found.features
            if is_read_twice:
                features = held.enter_context(_spooled(features, folder.path))
            for suffix in suffixes:
                path = folder.of_layer(found.name, suffix)
                written = write_features(features, path, layer)
                results.outputs.append((found.name, str(path)))
                results.left_out.update(dict(written.left_out))
                results.n_features[found.name] = written.n_features
            missing = wanted.n_outlines - len(outlines)
            if missing:
                outlines += [feature.geometry for feature in islice(features, missing)]
        style = folder.of_layer(found.name, ".qml")
        write_style(style, layer)
        results.outputs.append(("style", str(style)))
    return outlines


@contextmanager
def _spooled(features: Iterable[Feature], folder: Path) -> Iterator[_Spool]:
    """Draw features onto the disk of a folder, from where they are read again and again.

    Raises:
        OutputError: the disk is full or gone.
    """
    with ExitStack() as held:
        try:
            file = held.enter_context(tempfile.TemporaryFile(dir=folder))
            _fill(file, features)
        except OSError as error:
            raise OutputError(f"cannot write into {folder}: {error.strerror or error}") from error
        yield _Spool(file)


def _fill(file: IO[bytes], features: Iterable[Feature]) -> None:
    iterator = iter(features)
    while batch := list(islice(iterator, _BATCH)):
        # One array of WKB a batch: pickling geometries one by one takes ten times longer.
        shapes = shapely.to_wkb(np.array([f.geometry for f in batch], dtype=np.object_))
        rest = [(f.class_name, f.confidence, f.properties) for f in batch]
        pickle.dump((shapes.tolist(), rest), file)
    file.flush()  # a disk that is full is said now


class _Spool:
    """Features on disk, read by several writers in bounded memory, one after the other."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __iter__(self) -> Iterator[Feature]:
        self._file.seek(0, os.SEEK_END)
        end = self._file.tell()
        self._file.seek(0)
        while self._file.tell() < end:
            # written by this process, a moment ago
            shapes, rest = pickle.load(self._file)
            for geometry, (name, confidence, properties) in zip(
                shapely.from_wkb(shapes), rest, strict=True
            ):
                yield Feature(
                    class_name=name,
                    geometry=geometry,
                    confidence=confidence,
                    properties=properties,
                )
