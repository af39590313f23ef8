"""The import diagram, as a table: this test *is* the architecture.

`MAY_IMPORT` lists, for each room, the rooms of tilingseg that it may import while the program runs
(imports for type checkers do not count). `ONLY_IN` lists the rooms that may import a heavy package.
A change of the diagram is a change of this file.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {
    "errors": set(),
    "affine": set(),
    "places": {"errors"},
    "folder_lock": {"errors", "places"},
    "atomic": {"errors", "folder_lock", "places"},
    "memo": {"atomic", "errors"},
    "background": set(),
    "grid": {"errors"},
    "records": set(),
    "progress": {"errors", "records"},
    "tiling": {"errors", "grid", "records"},
    "plan": {"grid", "records", "tiling"},
    "area": {"affine", "errors", "grid"},
    "quicklook": {"records"},
    "scaling": {"errors", "records"},
    "model": {"atomic", "errors", "memo", "records"},
    "readers": {"errors", "grid", "places", "records"},
    "infer": {"atomic", "errors", "memo", "model", "records"},
    "decision": {"records"},
    "stitch": {"errors", "grid", "records"},
    "store": {"atomic", "errors", "places", "plan", "quicklook", "records"},
    "region_writer": set(),
    "vectorize": {"errors", "grid", "records"},
    "features": {"affine", "atomic", "errors", "records"},
    "metrics": {"errors"},
    "palette": set(),
    "export": {"atomic", "errors", "grid", "palette", "records"},
    "training": {
        *("affine", "atomic", "errors", "grid", "metrics", "model", "readers", "records"),
        *("scaling",),
    },
    "output_folder": {"errors", "places", "vectorize"},
    "vector_outputs": {
        *("errors", "features", "output_folder", "palette", "progress", "records", "vectorize"),
    },
    "mask_flow": {
        *("errors", "output_folder", "places", "progress", "readers", "records"),
        *("vector_outputs", "vectorize"),
    },
    "outputs": {
        *("atomic", "background", "errors", "export", "output_folder", "places", "plan"),
        *("progress", "quicklook", "records", "vector_outputs"),
    },
    "job": {
        *("area", "errors", "infer", "model", "output_folder", "places", "plan", "readers"),
        *("records", "tiling"),
    },
    "request": {"job", "model", "places", "records"},
    "flow": {
        *("area", "background", "decision", "errors", "folder_lock", "infer", "job"),
        *("output_folder", "outputs", "progress", "quicklook", "readers", "records"),
        *("region_writer", "request", "scaling", "stitch", "store"),
    },
    # measures what `flow.run` gives, so it stands above it
    "evaluation": {
        *("affine", "area", "atomic", "errors", "flow", "grid", "job", "metrics", "model"),
        *("output_folder", "places", "progress", "readers", "records", "training"),
    },
    "compress": {
        *("atomic", "errors", "evaluation", "infer", "job", "model", "progress", "records"),
        *("training",),
    },
    "cluster": {
        "atomic",
        "errors",
        "flow",
        "folder_lock",
        "grid",
        "infer",
        "job",
        "output_folder",
        "outputs",
        "places",
        "progress",
        "records",
        "request",
        "store",
        "vectorize",
    },
    "cli": {
        "compress",
        *(
            "cluster",
            "errors",
            "evaluation",
            "flow",
            "job",
            "mask_flow",
            "metrics",
            "model",
            "output_folder",
            "outputs",
        ),
        *("places", "progress", "readers", "tiling", "training", "vectorize"),
    },
    "__main__": {"cli"},
}

ONLY_IN = {
    "torch": {"model", "infer", "decision", "stitch", "training"},
    "safetensors": {"model", "training"},
    "rasterio": {"readers", "area", "vectorize", "export", "training", "evaluation"},
    "zarr": {"readers", "store", "export"},
    "dask": {"cluster"},
    "distributed": {"cluster"},
    "dask_jobqueue": {"cluster"},
    "click": {"cli"},
    "tqdm": {"cli", "training"},
}


def rooms():
    for path in sorted((ROOT / "tilingseg").rglob("*.py")):
        parts = path.relative_to(ROOT / "tilingseg").with_suffix("").parts
        if parts != ("__init__",):
            yield parts[0], path


def imports_at_run_time(path):
    """Yield the dotted names that a module imports, TYPE_CHECKING blocks left out."""
    hidden = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            hidden |= {id(inner) for body in node.body for inner in ast.walk(body)}
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("room", "path"), list(rooms()), ids=lambda value: str(value))
def test_rooms_import_only_what_the_table_allows(room, path):
    for name in imports_at_run_time(path):
        parts = name.split(".")
        if parts[0] == "tilingseg":
            target = parts[1]
            assert target in MAY_IMPORT[room] | {room, "__version__"}, (
                f"{room} may not import {target}"
            )
        assert parts[0] != "pipelines", f"{room} may not import pipelines"
        allowed = ONLY_IN.get(parts[0])
        assert allowed is None or room in allowed, f"{room} may not import {parts[0]}"


def test_the_table_has_no_cycle():
    done = set()
    while left := {room for room in MAY_IMPORT if room not in done}:
        ready = {room for room in left if MAY_IMPORT[room] <= done}
        assert ready, f"cycle among {sorted(left)}"
        done |= ready


def test_every_room_is_in_the_table():
    assert {room for room, _ in rooms()} <= set(MAY_IMPORT)


def test_modules_say_what_they_are_and_stay_small():
    for folder in ("tilingseg", "pipelines"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
            assert text.count("\n") <= 400, f"{path} has more than 400 lines"
