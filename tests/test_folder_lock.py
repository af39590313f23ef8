import subprocess
import sys
import threading
import time

import pytest

from tests.cluster_processes import until
from tilingseg.errors import BusyError, OutputError
from tilingseg.folder_lock import LOCK, alone_in

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")

HOLD = """
import pathlib, sys, time
from tilingseg.folder_lock import alone_in
with alone_in(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def test_nothing_is_left_behind(tmp_path):
    with alone_in(tmp_path):
        assert (tmp_path / LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_threads_of_one_process_wait_for_each_other(tmp_path):
    inside, most = 0, 0
    lock = threading.Lock()

    def enter():
        nonlocal inside, most
        with alone_in(tmp_path, 60):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.01)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, inside) == (1, 0)


def test_another_process_keeps_us_out_until_it_is_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert until(holder.stdout.readline) == "in\n"
        with (
            pytest.raises(BusyError, match="another process is at work in .*; let it end"),
            alone_in(tmp_path, 0.2),
        ):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with alone_in(tmp_path):
        pass


def test_a_folder_that_is_gone_is_named(tmp_path):
    with pytest.raises(OutputError, match="cannot write .*gone"), alone_in(tmp_path / "gone"):
        pass
