"""What can go wrong, as a tree with one root.

    TilingSegError
    ├── SceneError       a raster cannot be opened or read
    ├── ModelError       a model file is no model, or does not fit the scene
    ├── PlanError        the run that was asked for is impossible or contradicts an earlier one
    ├── TileError        one tile failed while it was read or inferred
    ├── VectorizeError   a mask cannot be turned into vectors
    ├── OutputError      a result cannot be written
    │   └── BusyError    another process is at work in the folder
    ├── EvaluationError  a result and its truth cannot be compared
    ├── TrainingError    a recipe, its labels or a training step are unusable
    ├── ClusterError     workers cannot be had or are lost, or a part of their work failed
    └── DependencyError  an optional package is missing

A message says what happened, with which value, and what to do about it, on one line: the command
line prints it as it is. Imports nothing.
"""


class TilingSegError(Exception):
    """Root of every error that tilingseg raises on purpose."""


class SceneError(TilingSegError):
    """A raster cannot be opened or read."""


class ModelError(TilingSegError):
    """A model file is no model, or the model does not fit the scene."""


class PlanError(TilingSegError):
    """The run that was asked for is impossible, or contradicts the one it would continue."""


class TileError(TilingSegError):
    """One tile failed while it was read or inferred; the message names the tile."""


class VectorizeError(TilingSegError):
    """A mask cannot be turned into vectors."""


class OutputError(TilingSegError):
    """A result cannot be written."""


class BusyError(OutputError):
    """Another process is at work in the folder of the outputs."""


class EvaluationError(TilingSegError):
    """A result and its truth cannot be read, or not be compared."""


class TrainingError(TilingSegError):
    """A training recipe, its labels or a training step are unusable."""


class ClusterError(TilingSegError):
    """Workers cannot be had or are lost, or a part of their work failed; what is done is kept."""


class DependencyError(TilingSegError):
    """An optional package is missing; the message names the extra that brings it."""
