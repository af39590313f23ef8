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
from tilingseg.errors import ClusterError, DependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilingseg.cluster.recipe import ClusterRecipe
    from tilingseg.job import RunOptions

CONFIG = {
    # a second region on the desk of a worker that dies would be blamed with the first
    "distributed.scheduler.worker-saturation": 1.0,
}

STATUS_PAGE = "127.0.0.1:0"
"""Dask's own page: for this machine alone, at a free port."""


@contextlib.contextmanager
def open_cluster(recipe: ClusterRecipe, options: RunOptions) -> Iterator[Client]:
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
        stack.enter_context(_hushed("distributed"))
        try:
            cluster = _cluster(recipe)
            if not isinstance(cluster, str):
                stack.enter_context(cluster)
            client = stack.enter_context(Client(cluster, set_as_default=False))
            client.register_plugin(LoadModel(options))
        except (OSError, RuntimeError, TimeoutError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ClusterError(
                f"cluster {recipe.kind}: {reason}; see that it runs and can be reached from here"
            ) from error
        yield client


def _cluster(recipe: ClusterRecipe) -> Any:
    """Return a Dask cluster, or the address of one."""
    if recipe.is_running:
        return recipe.kind
    if recipe.kind == "local":
        return LocalCluster(
            n_workers=recipe.workers,
            threads_per_worker=1,
            memory_limit=recipe.memory or "auto",
            dashboard_address=STATUS_PAGE,
            local_directory=recipe.scratch_dir,
            silence_logs=logging.CRITICAL,
            env={"OMP_NUM_THREADS": str(recipe.threads)},
        )
    return _queued(recipe)


def _queued(recipe: ClusterRecipe) -> Any:
    try:
        import dask_jobqueue
    except ImportError as error:
        raise DependencyError(
            f"workers from {recipe.kind} need dask-jobqueue: pip install tilingseg[cluster]"
        ) from error
    cluster_type = getattr(dask_jobqueue, f"{recipe.kind.upper()}Cluster")
    cluster = cluster_type(**job_wishes(recipe))
    cluster.adapt(
        minimum_jobs=recipe.least_workers, maximum_jobs=recipe.workers, target_duration="1s"
    )
    return cluster


def job_wishes(recipe: ClusterRecipe) -> dict[str, Any]:
    """Put a recipe into the words of dask-jobqueue."""
    wishes: dict[str, Any] = {
        "cores": recipe.threads,
        "processes": 1,
        "memory": recipe.memory or "8GiB",
        "queue": recipe.queue,
        "account": recipe.account,
        "walltime": recipe.walltime,
        "python": recipe.python,
        "interface": recipe.interface,
        "local_directory": recipe.scratch_dir,
        "log_directory": recipe.log_dir,
        "job_extra_directives": list(recipe.directives),
        "job_script_prologue": [f"export OMP_NUM_THREADS={recipe.threads}", *recipe.prologue],
        # of two values Dask's command line takes the last: one region at a time
        "worker_extra_args": ["--nthreads", "1"],
        "scheduler_options": {"dashboard_address": STATUS_PAGE},
    }
    if recipe.kind in ("lsf", "sge"):
        wishes["project"] = wishes.pop("account")
    if recipe.scheduler_host is not None:
        wishes["scheduler_options"]["host"] = recipe.scheduler_host
    return {key: value for key, value in wishes.items() if value is not None}


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
