"""Draw synthetic scenes with masks to train on: `python pipelines/draw_training_scenes.py FOLDER`.

A drawn suburb has an exact label for every pixel of both classes, which no photograph among the
training data has; a drawn town on sand (`--dry`) has halls as long as a block there, of which they
hold next to none. Writes `<seed>_rgb.tif` and `<seed>_mask.tif`: 0 background, 1 building, 2 road,
255 not photographed.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import rasterio
from rasterio.features import rasterize

from sample_data.make_sample_data import SAMPLE_SEED, draw_scene
from tilingseg.atomic import make_folder
from tilingseg.errors import OutputError

HEIGHT_PX, WIDTH_PX = 896, 1152
GSD_M = 0.5
CRS = "EPSG:32633"
TRANSFORM = rasterio.Affine(GSD_M, 0.0, 500_000.0, 0.0, -GSD_M, 5_800_000.0)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--count", default=6, show_default=True, type=click.IntRange(min=1), help="Scenes to draw."
)
@click.option(
    "--seed",
    default=1,
    show_default=True,
    type=click.IntRange(min=0),
    help="What the first scene is drawn from; each of the others takes the next number.",
)
@click.option("--dry", is_flag=True, help="Towns on sand instead of suburbs in the green.")
def main(folder: Path, count: int, seed: int, dry: bool) -> None:
    """Draw COUNT scenes into FOLDER, with the seeds from SEED on."""
    if SAMPLE_SEED in range(seed, seed + count):
        raise click.UsageError(f"seed {SAMPLE_SEED} is the shipped scene, which nothing trains on")
    try:
        make_folder(folder)
    except OutputError as error:
        raise click.ClickException(str(error)) from error
    for number in range(seed, seed + count):
        click.echo(_draw(folder, number, dry))


def _draw(folder: Path, seed: int, dry: bool) -> Path:
    """Draw one scene and return the path of its photograph."""
    pixels, valid, buildings, roads = draw_scene(seed, HEIGHT_PX, WIDTH_PX, dry=dry)
    shapes = [(road, 2) for road in roads] + [(building, 1) for building in buildings]
    mask = rasterize(shapes, out_shape=valid.shape, dtype="uint8")
    mask[~valid] = 255
    for kind, values in (("rgb", pixels), ("mask", mask[None])):
        profile = {"count": len(values), "height": HEIGHT_PX, "width": WIDTH_PX}
        nodata = 0 if kind == "rgb" else 255
        settings = {"dtype": "uint8", "crs": CRS, "transform": TRANSFORM, "nodata": nodata}
        path = folder / f"{seed}_{kind}.tif"
        with rasterio.open(path, "w", "GTiff", **profile, **settings, compress="deflate") as out:
            out.write(np.asarray(values))
    return folder / f"{seed}_rgb.tif"


if __name__ == "__main__":
    main()
