"""A real Slurm of one node on loopback: controller and node as plain processes, for tests."""

import os
import shutil
import socket
import subprocess
from contextlib import ExitStack, contextmanager

from tests.cluster_processes import started, until

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "sinfo", "scancel", "squeue")

CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_min_interval=100000
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


def why_not():
    """Say why there can be no Slurm here; None: there can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: slurm-wlm)"
    return None if os.geteuid() == 0 else "slurmd wants to be root"


@contextmanager
def slurm(folder):
    """Start a controller and a node: the environment that its commands need."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    text = CONFIGURATION.format(folder=folder, ports=free_ports(2), cpus=os.cpu_count())
    path = folder / "slurm.conf"
    path.write_text(text, encoding="utf-8")
    changes = {"SLURM_CONF": str(path)}

    def is_idle():
        found = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], env=os.environ | changes, capture_output=True, text=True
        )
        return found.stdout.strip() == "idle"

    with ExitStack() as stack:
        controller = stack.enter_context(started("slurmctld", "-D", "-f", str(path), **changes))
        arguments = ("slurmd", "-D", "-N", "localhost", "-f", str(path))
        stack.enter_context(started(*arguments, **changes))
        until(is_idle, alive=controller)
        yield changes


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
