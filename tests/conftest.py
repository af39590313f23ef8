"""What many test modules share: the command line, and an object store on this machine."""

import logging
import signal
import sys
import uuid

import pytest
from hypothesis import HealthCheck, settings

from tilingseg.cli import main

# A shell has its background jobs ignore Ctrl-C, and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A machine that others use too may stand still for longer than any example should take.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def no_folder_of_data():
    """Let no command take the data sets of this machine for those of a test's recipe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TILINGSEG_DATA", raising=False)
        yield


@pytest.fixture
def call(monkeypatch, capfd):
    """Run the command line in this process: (exit code, stdout, stderr), libraries' words too."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tilingseg", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def object_store():
    """Serve an S3 store on loopback for the whole session: URL of an empty bucket."""
    server_module = pytest.importorskip("moto.server", reason="needs moto and flask-cors")
    s3fs = pytest.importorskip("s3fs", reason="needs the extra [remote]")
    pytest.importorskip("upath", reason="needs the extra [remote]")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        # for this process and for the clusters that it starts
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        # GDAL asks by its own names
        patch.setenv("AWS_S3_ENDPOINT", f"{host}:{port}")
        patch.setenv("AWS_HTTPS", "NO")
        patch.setenv("AWS_VIRTUAL_HOSTING", "FALSE")
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
        try:
            yield "s3://bucket"
        finally:
            server.stop()


@pytest.fixture(params=["disk", "object store"])
def folder_of_outputs(request, tmp_path):
    """An empty folder, and an empty prefix of an object store."""
    from tilingseg.places import place

    if request.param == "disk":
        return tmp_path
    return place(request.getfixturevalue("object_store")) / uuid.uuid4().hex
