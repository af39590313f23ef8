"""The tag of a scene on a server, where the server does not always answer."""

import re
import time

import pytest

from tests.makers import make_geotiff, smooth_noise
from tests.servers import file_server
from tilingseg.errors import SceneError
from tilingseg.readers import open_scene


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CPL_VSIL_CURL_NON_CACHED", "/vsicurl/http://127.0.0.1")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with file_server() as server:
        yield server


@pytest.fixture
def scene(server, tmp_path):
    server.files["/scene.tif"] = make_geotiff(tmp_path / "s.tif", smooth_noise(64, 64)).read_bytes()
    return f"{server.url}/scene.tif"


def answer_first(server, monkeypatch, answers):
    """Give these answers to requests for the first byte, as only the tag's are; None: hang up."""
    answer = server.answer

    def fail(handler, *, body):
        if not answers or handler.headers.get("Range") != "bytes=0-0":
            answer(handler, body=body)
        elif (status := answers.pop(0)) is None:
            handler.close_connection = True
        else:
            handler.send_error(status)

    monkeypatch.setattr(server, "answer", fail)


@pytest.mark.parametrize("answers", [[503], [None, 429], [500, None]])
def test_a_server_that_is_busy_is_asked_again(scene, server, monkeypatch, answers):
    expected = open_scene(scene).scene.revision
    assert re.fullmatch(r'"first"-\d+', expected)
    answer_first(server, monkeypatch, answers)
    assert open_scene(scene).scene.revision == expected
    assert answers == []


@pytest.mark.parametrize(("status", "reason"), [(503, "HTTP 503"), (None, "closed")])
def test_a_server_that_stays_silent_is_no_other_scene(scene, server, monkeypatch, status, reason):
    answers = [status] * 9
    answer_first(server, monkeypatch, answers)
    with pytest.raises(
        SceneError, match=rf"whether the file is still the same .*{reason}"
    ) as error:
        open_scene(f"{scene}")
    assert "\n" not in str(error.value)
    assert len(answers) == 6


def test_a_server_that_refuses_gives_no_tag_and_says_so_every_time(scene, server, monkeypatch):
    answer_first(server, monkeypatch, [403] * 2)
    revisions = {open_scene(scene).scene.revision for _ in range(2)}
    assert len(revisions) == 1
    assert revisions.pop().startswith("described-")


def test_a_url_of_gdal_has_the_tag_too(scene):
    assert open_scene(f"/vsicurl/{scene}").scene.revision == open_scene(scene).scene.revision
