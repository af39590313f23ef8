"""A batch on a real Slurm: jobs are submitted by dask-jobqueue, run and end."""

import importlib.util
import sys

import pytest

from tests.cluster_processes import call
from tests.makers import make_geotiff, make_model, smooth_noise
from tests.slurm import slurm, why_not

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("dask_jobqueue") is None, reason="needs the extra [cluster]"
)

RECIPE = """
kind = "slurm"
workers = 2
memory = "1GiB"
queue = "main"
walltime = "00:10:00"
interface = "lo"
python = "{python}"
log_dir = "{logs}"
prologue = ["export PYTHONPATH=$PYTHONPATH"]
"""


@pytest.mark.slow
@pytest.mark.skipif(why_not() is not None, reason=f"no Slurm: {why_not()}")
def test_a_batch_of_twenty_scenes_is_done_by_jobs(tmp_path):
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    for index in range(20):
        make_geotiff(scenes / f"scene{index:02d}.tif", smooth_noise(64, 64, seed=index))
    model = make_model(tmp_path / "tiny.safetensors")
    recipe = tmp_path / "slurm.toml"
    logs = tmp_path / "logs"
    recipe.write_text(RECIPE.format(python=sys.executable, logs=logs), encoding="utf-8")
    (tmp_path / "slurm").mkdir()
    arguments = ("batch", scenes / "*.tif", "-o", tmp_path / "out", "--model", model, "-q")
    flags = ("--device", "cpu", "--formats", "cog", "--cluster", recipe)
    with slurm(tmp_path / "slurm") as changes:
        done = call(*arguments, *flags, **changes)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "out").glob("scene*/scene*_mask.tif"))) == 20
    assert list(logs.glob("*.err")), "the jobs write where the recipe says"
    controller = (tmp_path / "slurm" / "slurmctld.log").read_text()
    assert "_slurm_rpc_submit_batch_job: JobId=" in controller
