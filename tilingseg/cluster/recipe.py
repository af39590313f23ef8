"""The recipe of a cluster: where workers come from, how many, how large.

A recipe is TOML with the keys of `ClusterRecipe`; a key that is not known is refused, because a
walltime that is spelled wrongly costs a night in the queue.
"""

from __future__ import annotations

import tomllib
import typing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any

from tilingseg.errors import PlanError

SCHEDULERS = ("slurm", "pbs", "lsf", "sge")
"""Batch systems that workers are asked from."""
PROTOCOLS = ("tcp://", "tls://", "ws://", "wss://", "ucx://")
"""How the address of a running scheduler begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRecipe:
    """Where workers come from."""

    kind: str
    """`local`, one of `SCHEDULERS`, or the address of a running scheduler."""
    workers: int = 2
    """Most workers; each does one region at a time. A running scheduler has the ones it has."""
    least_workers: int = 0
    """Workers that are kept while there is less to do; batch systems only."""
    threads: int = 1
    """Processor threads of one worker's network."""
    memory: str | None = None
    """Memory of one worker, as `8GiB`; a worker beyond it is restarted. None: its share of the
    machine with `local`, 8GiB with batch systems."""
    queue: str | None = None
    """Queue or partition."""
    account: str | None = None
    """Who pays: account, project or charge code."""
    walltime: str | None = None
    """Longest time of one job, as the batch system writes it; regions are done again elsewhere."""
    directives: tuple[str, ...] = ()
    """Further lines for the head of the job script, as `--gres=gpu:1`."""
    prologue: tuple[str, ...] = ()
    """Commands that the job script runs before the worker, as `source /shared/env/bin/activate`."""
    patience_s: int | None = None
    """Seconds without any worker after which the command gives up; None: it waits as long as jobs
    are in the queue."""
    python: str | None = None
    """Python of the workers; None: the one that runs this."""
    interface: str | None = None
    """Network interface of the workers, as `ib0`; None: the default one."""
    scheduler_host: str | None = None
    """Address of this machine that the workers can reach; None: found by the interface."""
    scratch_dir: str | None = None
    """Folder on the workers' machines for their temporary files."""
    log_dir: str | None = None
    """Folder of the jobs' output; None: where the batch system puts it."""

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            PlanError: with the key and what it may be.
        """
        known = ("local", *SCHEDULERS)
        if self.kind not in known and not self.is_running:
            raise PlanError(
                f"cluster {self.kind!r} is none of {', '.join(known)}, the address of a scheduler "
                "such as tcp://host:8786, or a recipe file that ends in .toml"
            )
        for key in ("workers", "threads"):
            if getattr(self, key) < 1:
                raise PlanError(f"cluster: {key} must be 1 or more, got {getattr(self, key)}")
        if not 0 <= self.least_workers <= self.workers:
            raise PlanError(
                f"cluster: least_workers must be 0 to {self.workers}, got {self.least_workers}"
            )

    @property
    def is_running(self) -> bool:
        """Tell whether the recipe is the address of a scheduler that runs already."""
        return self.kind.startswith(PROTOCOLS)


def read_cluster(text: str, workers: int | None = None) -> ClusterRecipe:
    """Turn what the user named into a recipe.

    Args:
        text: a kind, an address, or the path of a TOML file.
        workers: most workers; None: what the recipe says.

    Raises:
        PlanError: there is no such cluster, or the file is no recipe.
    """
    if not text.endswith(".toml"):
        recipe = ClusterRecipe(kind=text)
    else:
        path = Path(text)
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise PlanError(f"recipe {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise PlanError(f"recipe {path} is not TOML: {error}") from error
        recipe = cluster_from(raw, str(path))
    return recipe if workers is None else replace(recipe, workers=workers)


def cluster_from(raw: dict[str, Any], where: str) -> ClusterRecipe:
    """Turn a TOML table into a recipe.

    Args:
        raw: keys and values.
        where: the file, for messages.

    Raises:
        PlanError: a key is unknown or missing, or its value has the wrong type.
    """
    hints = typing.get_type_hints(ClusterRecipe)
    known = [item.name for item in fields(ClusterRecipe)]
    values = {}
    for key, value in raw.items():
        if key not in known:
            raise PlanError(f"{where}: unknown key {key!r}; known: {', '.join(known)}")
        values[key] = _checked(value, hints[key], f"{where}: {key}")
    if "kind" not in values:
        raise PlanError(f"{where}: the key 'kind' is missing: local, {', '.join(SCHEDULERS)}")
    return ClusterRecipe(**values)


def _checked(value: Any, kind: Any, where: str) -> Any:
    if typing.get_origin(kind) is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise PlanError(f"{where} is {value!r}, must be a list of texts")
    wanted = typing.get_args(kind)[0] if isinstance(kind, UnionType) else kind
    if type(value) is not wanted:
        names = {int: "a whole number", str: "a text"}
        raise PlanError(f"{where} is {value!r}, must be {names[wanted]}")
    return value
