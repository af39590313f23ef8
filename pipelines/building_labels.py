"""Write the project's own building labels as masks: `python pipelines/building_labels.py DATA`.

Two of the sets of photographs that the bundled model learns from lack labels of single buildings:
the crops of Massachusetts have roads alone, half of Dubai has whole blocks, gardens included, and
the other half storage yards among its buildings. `recipes/building_labels.zip` holds what takes
their place: what earlier networks proposed, corrected by eye but for the blocks; 11 pictures of
Dubai with next to no building are as they came. It has a PNG for each photograph: 0 no building,
1 building, 255 unknown. This joins them with the road labels in DATA and writes
`DATA/labels/<set>/<photograph>.tif`: 0 neither, 1 building, 2 perhaps a building but no road,
10 road, 11 building and road, 255 not labelled.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path, PurePosixPath

import click
import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from tilingseg.atomic import make_folder
from tilingseg.errors import OutputError

LABELS = Path(__file__).parent / "recipes" / "building_labels.zip"
ROADS = {"massachusetts": ("massachusetts_roads/masks", 1), "dubai": ("dubai/masks_index", 2)}
"""Folder of a set's own masks, and their value of a road."""


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(data: Path) -> None:
    """Write the masks into DATA/labels; DATA holds dubai and massachusetts_roads."""
    with zipfile.ZipFile(LABELS) as labels:
        names = [PurePosixPath(name) for name in sorted(labels.namelist()) if name.endswith(".png")]
        missing = [mask for name in names if not (mask := _own_mask(data, name)).is_file()]
        if missing:
            raise click.UsageError(
                f"{missing[0]} is not there, nor are {len(missing) - 1} of the other "
                f"{len(names) - 1} masks; DATA is the folder that holds dubai/ and "
                "massachusetts_roads/"
            )
        with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
            for name in names:
                with MemoryFile(labels.read(str(name))) as file, file.open() as dataset:
                    buildings = dataset.read(1)
                try:
                    _write(buildings, data, name)
                except (OutputError, OSError, RasterioError) as error:
                    raise click.ClickException(f"{name}: {error}") from error
    click.echo(f"{len(names)} masks in {data / 'labels'}")


def _own_mask(data: Path, name: PurePosixPath) -> Path:
    """Return the path of the mask that came with a photograph."""
    folder, _ = ROADS[name.parent.name]
    return data / folder / name.name


def _write(buildings: np.ndarray, data: Path, name: PurePosixPath) -> None:
    path, (_, road_value) = _own_mask(data, name), ROADS[name.parent.name]
    with rasterio.open(path) as dataset:
        own = dataset.read(1)
    if own.shape != buildings.shape:
        sizes = [f"{width} × {height} px" for height, width in (own.shape, buildings.shape)]
        raise click.ClickException(
            f"{path} has {sizes[0]}, its label of buildings {sizes[1]}: "
            "it belongs to another photograph"
        )
    road = own == road_value
    mask = np.where(road, 10 + (buildings == 1), np.minimum(buildings, 2))
    mask[own == 255] = 255
    target = (data / "labels" / name).with_suffix(".tif")
    make_folder(target.parent)
    profile = {"count": 1, "height": mask.shape[0], "width": mask.shape[1], "dtype": "uint8"}
    with rasterio.open(target, "w", "GTiff", **profile, nodata=255, compress="deflate") as out:
        out.write(mask.astype("uint8"), 1)


if __name__ == "__main__":
    main()
