import os
import signal
import subprocess
import sys

import pytest

from tilingseg.errors import VectorizeError
from tilingseg.vectorize.processes import in_processes


def test_results_come_in_the_order_of_the_items():
    found = in_processes(abs, iter(range(-20, 0)), 2, preload="tilingseg.errors")
    assert list(found) == list(range(20, 0, -1))


def test_a_program_without_a_guard_is_not_run_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "print('begun', flush=True)\n"
        "from tilingseg.vectorize.processes import in_processes\n"
        "print(list(in_processes(abs, range(-3, 0), 2, preload='tilingseg.errors')))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.stderr) == ("begun\n[3, 2, 1]\n", "")


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_process_is_told_in_one_line():
    with pytest.raises(VectorizeError, match=r"was killed.*repeat the command"):
        list(in_processes(signal.raise_signal, [signal.SIGKILL], 1, preload="tilingseg.errors"))


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_workers_end_with_a_caller_that_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal\n"
        "from tilingseg.vectorize.processes import in_processes\n"
        "results = in_processes(os.getpgid, [0] * 50, 2, preload='tilingseg.errors')\n"
        "next(results)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # The pipe closes when the last process that inherited it has ended: workers hold it too.
    caller = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
    assert caller.communicate(timeout=30) == (b"", None)
    assert caller.returncode == -signal.SIGKILL
