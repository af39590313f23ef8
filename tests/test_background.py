import threading

import pytest

from tilingseg.background import Background


def fail():
    raise OSError("disk gone")


def test_works_beside_and_gives_what_a_task_returns():
    with Background("test") as beside:
        begun = beside.begin(threading.current_thread)
        assert begun.result() is not threading.current_thread()
        assert begun.result().name.startswith("test")


def test_tasks_follow_each_other_and_one_may_wait():
    go, done = threading.Event(), []

    def slow():
        go.wait(5)
        done.append("first")

    with Background("test") as beside:
        beside.begin(slow)
        beside.begin(lambda: done.append("second"))
        assert not done
        threading.Timer(0.05, go.set).start()
        beside.begin(lambda: done.append("third"))
        assert done[0] == "first"
        beside.wait()
    assert done == ["first", "second", "third"]


def test_an_error_is_raised_once_where_it_is_waited_for():
    with Background("test") as beside:
        beside.begin(fail)
        beside.begin(int)
        with pytest.raises(OSError, match="disk gone"):
            beside.begin(int)
        beside.wait()
        beside.begin(fail)
        with pytest.raises(OSError, match="disk gone"):
            beside.wait()


def interrupted(ended):
    with Background("test") as beside:
        beside.begin(ended.set)
        raise KeyError


def test_the_end_of_the_block_waits_and_keeps_its_own_error():
    ended = threading.Event()
    with pytest.raises(KeyError):
        interrupted(ended)
    assert ended.is_set()
