import pickle
from contextlib import contextmanager

import numpy as np
import pytest
import rasterio
from affine import Affine

from tests.contracts import read_whole
from tests.servers import file_server
from tilingseg.errors import SceneError
from tilingseg.grid import Window
from tilingseg.readers import open_scene
from tilingseg.readers.gdal_access import fit_cache, gdal_settings, locate_target


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # Each test sees its own bytes, whatever an earlier one fetched from the same port.
    monkeypatch.setenv("CPL_VSIL_CURL_NON_CACHED", "/vsicurl/http://127.0.0.1")
    with file_server() as server:
        yield server


@pytest.fixture(scope="module")
def cog(tmp_path_factory):
    path = tmp_path_factory.mktemp("cog") / "scene.tif"
    pixels = np.random.default_rng(0).integers(1, 255, (3, 700, 600), dtype=np.uint8)
    profile = {"driver": "COG", "height": 700, "width": 600, "count": 3, "dtype": "uint8"}
    profile |= {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 5e5, 0, -0.5, 5e6)}
    with rasterio.open(path, "w", **profile, blocksize=256, compress="deflate") as out:
        out.write(pixels)
    return path.read_bytes(), pixels


def test_a_cog_on_a_server_is_read_by_ranges(server, cog):
    data, pixels = cog
    server.files["/folder/scene.tif"] = data
    reader = open_scene(f"{server.url}/folder/scene.tif")
    assert reader.scene.name == "scene"
    read, valid = reader.read(Window(row=300, col=10, height=99, width=500))
    np.testing.assert_array_equal(read, pixels[:, 300:399, 10:510])
    assert valid.all()
    # Neither the folder nor files beside the scene are looked for.
    assert {path for _, path in server.seen} == {"/folder/scene.tif"}
    copy = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(read_whole(copy)[0], pixels)
    reader.close()
    copy.close()


def test_a_query_in_the_url_is_no_part_of_the_name(server, cog):
    server.files["/scene.tif?key=a/b"] = cog[0]
    assert open_scene(f"{server.url}/scene.tif?key=a/b").scene.name == "scene"


def test_the_revision_is_the_tag_of_the_server(server, cog):
    server.files["/scene.tif"] = cog[0]
    url = f"{server.url}/scene.tif"
    assert open_scene(url).scene.revision == f'"first"-{len(cog[0])}'
    server.tag = '"second"'
    assert open_scene(url).scene.revision == f'"second"-{len(cog[0])}'


def test_a_hiccup_of_the_server_is_survived(server, cog):
    data, pixels = cog
    server.files["/scene.tif"] = data
    reader = open_scene(f"{server.url}/scene.tif")
    server.failures["/scene.tif"] = [503]
    np.testing.assert_array_equal(read_whole(reader)[0], pixels)
    assert server.failures["/scene.tif"] == []
    reader.close()


def test_a_lost_file_names_the_window(server, cog):
    server.files["/scene.tif"] = cog[0]
    reader = open_scene(f"{server.url}/scene.tif")
    reader.read(Window(row=0, col=0, height=1, width=1))
    server.failures["/scene.tif"] = [403] * 100
    with pytest.raises(SceneError, match=r"rows 500…509, columns 0…9 cannot be read") as error:
        reader.read(Window(row=500, col=0, height=10, width=10))
    assert "\n" not in str(error.value)
    reader.close()


def test_a_file_that_the_server_lacks_is_named(server):
    with pytest.raises(SceneError, match=r"nix\.tif: the server has no such file \(HTTP 404\)"):
        open_scene(f"{server.url}/nix.tif")


def test_a_file_on_a_server_that_is_no_raster_is_named(server):
    server.files["/page.html"] = b"<html>hello</html>" * 50
    with pytest.raises(SceneError, match=r"page\.html is no raster"):
        open_scene(f"{server.url}/page.html")


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("file", ["scene.tif", "scene.zarr"])
def test_without_a_network_there_is_one_line(monkeypatch, scheme, file):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    pytest.importorskip("aiohttp")
    with pytest.raises(SceneError) as error:
        open_scene(f"{scheme}://127.0.0.1:9/{file}")
    assert f"127.0.0.1:9/{file} cannot be" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("uri", "path", "is_remote"),
    [
        ("scene.tif", "scene.tif", False),
        ("file:///data/scene.tif", "/data/scene.tif", False),
        ("https://host/a.tif?x=1", "/vsicurl/https://host/a.tif?x=1", True),
        ("s3://bucket/key.tif", "/vsis3/bucket/key.tif", True),
        ("gs://bucket/key.tif", "/vsigs/bucket/key.tif", True),
        ("az://bucket/key.tif", "/vsiaz/bucket/key.tif", True),
        ("/vsis3/bucket/key.tif", "/vsis3/bucket/key.tif", True),
        ("/vsizip/vsicurl/https://host/a.zip/b.tif",) * 2 + (True,),
        ('NETCDF:"x.nc":t', 'NETCDF:"x.nc":t', False),
    ],
)
def test_addresses_are_those_of_gdal(uri, path, is_remote):
    target = locate_target(uri)
    assert (target.path, target.is_remote) == (path, is_remote)
    names = {name for name, _ in target.settings}
    assert ("GDAL_DISABLE_READDIR_ON_OPEN" in names) == is_remote


def config(name):
    return rasterio.env.get_gdal_config(name)


@contextmanager
def kept_cache_size():
    with rasterio.Env():
        before = config("GDAL_CACHEMAX")
        yield
        with rasterio.Env(GDAL_CACHEMAX=before):
            pass


def test_the_block_cache_is_bounded():
    with kept_cache_size(), gdal_settings(locate_target("scene.tif")):
        assert config("GDAL_CACHEMAX") == 256_000_000


def test_the_environment_wins(monkeypatch):
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "9")
    with kept_cache_size():
        target = locate_target("https://host/a.tif")
        assert "GDAL_HTTP_MAX_RETRY" not in dict(target.settings)
        with gdal_settings(target, GDAL_HTTP_MAX_RETRY="1"):
            assert config("GDAL_HTTP_MAX_RETRY") in ("9", 9)


def test_the_session_wins_and_travels():
    with kept_cache_size():
        with rasterio.Env(GDAL_HTTP_MAX_RETRY="7", GDAL_CACHEMAX=64_000_000):
            target = pickle.loads(pickle.dumps(locate_target("https://host/a.tif")))
        with gdal_settings(target, GDAL_HTTP_MAX_RETRY="1"):
            assert config("GDAL_HTTP_MAX_RETRY") in ("7", 7)
            assert config("GDAL_CACHEMAX") == 64_000_000


def test_defaults_are_replaced_where_asked():
    with kept_cache_size():
        target = locate_target("https://host/a.tif")
        with gdal_settings(target, GDAL_HTTP_MAX_RETRY="1"):
            assert config("GDAL_HTTP_MAX_RETRY") in ("1", 1)
        with gdal_settings(target):
            assert config("GDAL_HTTP_MAX_RETRY") in ("6", 6)


@pytest.mark.parametrize(
    ("size", "profile", "expected"),
    [
        ((900, 1000), {"tiled": True}, 64_000_000),
        # what tiles share: 2048 + 256 rows of 8192 + 256 columns
        ((20_000, 30_000), {"tiled": True}, 2304 * 8448 * 4),
        # whole strips, until there is no more
        ((20_000, 40_000), {"tiled": False}, 256_000_000),
    ],
)
def test_the_block_cache_holds_what_tiles_share(tmp_path, size, profile, expected):
    height, width = size
    path = tmp_path / "sparse.tif"
    where = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
    settings = {"driver": "GTiff", "count": 2, "dtype": "uint16", "SPARSE_OK": True}
    with rasterio.open(
        path, "w", height=height, width=width, transform=where, **settings, **profile
    ):
        pass
    target = locate_target(str(path))
    with rasterio.open(path) as dataset:
        fitted = fit_cache(target, dataset)
    assert dict(fitted.settings)["GDAL_CACHEMAX"] == expected


def test_a_cache_size_of_the_user_stays(tmp_path):
    with kept_cache_size(), rasterio.Env(GDAL_CACHEMAX=80_000_000):
        target = locate_target("scene.tif")
    assert fit_cache(target, None) is target
