"""Workers: started here, asked from a batch system, or those of a scheduler that runs already.

Workers do one region at a time; the network inside uses the threads that the recipe gives it. The
scheduler of clusters that are started here lives in this process and ends with it.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, LocalCluster

from tilingseg.cluster.foreman import LoadModel
from tilingseg.cluster.queued import STATUS_PAGE, Jobs
from tilingseg.cluster.recipe import SCHEDULERS
from tilingseg.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilingseg.cluster.recipe import ClusterRecipe
    from tilingseg.job import RunOptions

CONFIG = {
    # a second region on the desk of a worker that dies would be blamed with the first
    "distributed.scheduler.worker-saturation": 1.0,
}


class Crew(Client):
    """A client that knows whether workers may still come."""

    def __init__(self, cluster: Any, recipe: ClusterRecipe, jobs: Jobs | None) -> None:
        """Connect to a cluster, or the address of a scheduler; jobs: those of a batch system."""
        Client.__init__(self, cluster, set_as_default=False)
        self._recipe = recipe
        self._jobs = jobs

    def trouble(self, alone_s: float) -> str:
        """Tell why to wait no longer.

        Args:
            alone_s: how long there has been no worker, seconds.

        Returns:
            The reason, one line; empty: they may still come.
        """
        limit = self._recipe.patience_s
        if limit is not None and alone_s > limit:
            return f"no worker of {self._recipe.kind} came in {limit} s"
        return "" if self._jobs is None else self._jobs.trouble()


@contextlib.contextmanager
def open_cluster(recipe: ClusterRecipe, options: RunOptions) -> Iterator[Crew]:
    """Get workers, with their network loaded, and let them go at the end.

    Args:
        recipe: where they come from.
        options: names the model.

    Raises:
        ClusterError: the workers or the scheduler cannot be had.
        DependencyError: the batch system's package is missing.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(CONFIG))
        # what becomes of scheduler and workers is the foreman's to tell, in one line
        for name in ("distributed", "tornado"):
            stack.enter_context(_hushed(name))
        try:
            jobs = Jobs(recipe) if recipe.kind in SCHEDULERS else None
            cluster = _cluster(recipe) if jobs is None else jobs.cluster
            if not isinstance(cluster, str):
                stack.enter_context(cluster)
            client = stack.enter_context(Crew(cluster, recipe, jobs))
            client.register_plugin(LoadModel(options))
        except (OSError, RuntimeError, TimeoutError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ClusterError(
                f"cluster {recipe.kind}: {reason}; see that it runs and can be reached from here"
            ) from error
        yield client


def _cluster(recipe: ClusterRecipe) -> Any:
    """Return a Dask cluster of this machine, or the address of one that runs."""
    if recipe.is_running:
        return recipe.kind
    return LocalCluster(
        n_workers=recipe.workers,
        threads_per_worker=1,
        memory_limit=recipe.memory or "auto",
        dashboard_address=STATUS_PAGE,
        local_directory=recipe.scratch_dir,
        silence_logs=logging.CRITICAL,
        env={"OMP_NUM_THREADS": str(recipe.threads)},
    )


@contextlib.contextmanager
def _hushed(name: str) -> Iterator[None]:
    """Keep a package's loggers quiet; each of them may have a level of its own."""
    known = [name, *(key for key in logging.root.manager.loggerDict if key.startswith(f"{name}."))]
    loggers = [logging.getLogger(key) for key in known]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
