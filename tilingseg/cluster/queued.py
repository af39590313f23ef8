"""Workers from a batch system: the jobs that dask-jobqueue submits, and what goes wrong with them.

dask-jobqueue asks for jobs in the background and tells nobody when one is refused, or ends before
its worker has come: the command would wait for ever. Both are noted here. A refused job is asked
for again, later each time; only where no worker is left does it end the command.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

from distributed import Status

from tilingseg.errors import ClusterError, DependencyError

if TYPE_CHECKING:
    from tilingseg.cluster.recipe import ClusterRecipe

STATUS_PAGE = "127.0.0.1:0"
"""Dask's own page: for this machine alone, at a free port."""
MAX_REFUSED = 6
"""Submissions refused in a row after which a batch system counts as closed: half a minute."""
MAX_PAUSE_S = 8.0
"""Longest pause after a refusal, seconds."""
LOOK_S = 20.0
"""Seconds between looks at jobs whose workers have not come. Longer than Dask keeps the job of a
worker that has left."""
STATES = {"slurm": "squeue -h -j", "pbs": "qstat", "lsf": "bjobs -noheader", "sge": "qstat -j"}
"""Commands that tell of a job, before its number."""
_ENDED = re.compile(r"\b(DONE|EXIT)\b")
"""States that LSF goes on to show after the end."""


def import_jobqueue() -> Any:
    """Import dask-jobqueue, which makes Ctrl-C a silent end without an error, and undo that."""
    before = signal.getsignal(signal.SIGINT)
    import dask_jobqueue

    if signal.getsignal(signal.SIGINT) is not before:
        signal.signal(signal.SIGINT, before)
    return dask_jobqueue


class Jobs:
    """The jobs of one command."""

    def __init__(self, recipe: ClusterRecipe) -> None:
        """Get a Dask cluster whose workers are jobs.

        Raises:
            ClusterError: the batch system is not on this machine.
            DependencyError: dask-jobqueue is missing.
        """
        try:
            dask_jobqueue = import_jobqueue()
        except ImportError as error:
            raise DependencyError(
                f"workers from {recipe.kind} need dask-jobqueue: pip install tilingseg[cluster]"
            ) from error
        cluster_type = getattr(dask_jobqueue, f"{recipe.kind.upper()}Cluster")
        command = shlex.split(cluster_type.job_cls.submit_command)[0]
        if shutil.which(command) is None:
            raise ClusterError(
                f"cluster {recipe.kind}: {command} is not on this machine; start the command where "
                "jobs are submitted"
            )
        self._recipe = recipe
        self._n_refused = 0
        self._refusal = ""
        self._missing: tuple[str, ...] = ()
        self._looked_s = float("-inf")
        self.cluster = cluster_type(
            job_cls=self._watched(cluster_type.job_cls), **job_wishes(recipe)
        )
        self.cluster.adapt(
            minimum_jobs=recipe.least_workers, maximum_jobs=recipe.workers, target_duration="1s"
        )

    def trouble(self) -> str:
        """Return why no worker will come, one line; empty: nothing is known to be wrong."""
        if self._n_refused >= MAX_REFUSED:
            return f"{self._recipe.kind} refuses the jobs: {self._refusal}"
        now = time.monotonic()
        if now - self._looked_s < LOOK_S:
            return ""
        self._looked_s = now
        numbers = tuple(
            str(job.job_id) for job in list(self.cluster.workers.values()) if job.job_id
        )
        ended = numbers if not any(map(self._is_alive, numbers)) else ()
        again, self._missing = bool(ended) and ended == self._missing, ended
        if not again:
            return ""
        where = self._recipe.log_dir
        return (
            f"the jobs of {self._recipe.kind} ended before their workers came (the last is "
            f"{ended[-1]}): see what they wrote{'' if where is None else f' in {where}'}"
        )

    def _watched(self, job_type: Any) -> Any:
        """Return a kind of job that is forgotten where it is refused, so that it is asked again."""

        async def start(job: Any) -> None:
            try:
                await job_type.start(job)
                self._n_refused = 0
            except (OSError, RuntimeError, ValueError) as error:
                self._n_refused += 1
                self._refusal = _told(error)
                job.status = Status.failed
                await asyncio.sleep(min(MAX_PAUSE_S, 2.0 ** (self._n_refused - 1)))
                asyncio.get_running_loop().call_later(1.0, self._forget, job.name)

        return type(job_type.__name__, (job_type,), {"start": start})

    def _forget(self, name: Any) -> None:
        self.cluster.worker_spec.pop(name, None)
        self.cluster.workers.pop(name, None)

    def _is_alive(self, number: str) -> bool:
        """Ask whether a job waits or runs; true where the batch system cannot be asked."""
        command = [*shlex.split(STATES[self._recipe.kind]), number]
        try:
            asked = subprocess.run(
                command, capture_output=True, text=True, timeout=LOOK_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return True
        known = asked.returncode == 0 and bool(asked.stdout.strip())
        return known and not _ENDED.search(asked.stdout)


def _told(error: Exception) -> str:
    """Return what the batch system said of a job that it refused, one line."""
    said = str(error).partition("stderr:")[2] or str(error)
    return " ".join(said.split()) or type(error).__name__


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
