"""The command line: parse, one call, print, exit code. No algorithm lives here.

Exit codes: 0 done, 1 an error that is told in one line, 2 wrong usage, 130 interrupted. Results go
to stdout, progress and errors to stderr. Everything heavy is imported inside the commands, so that
`--help` answers at once.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import Any

import click

from tilingseg import __version__
from tilingseg.cli.cluster_commands import (
    batch,
    cluster_flags,
    cluster_recipe,
    full_options,
    one_scene,
    run_on_cluster,
)
from tilingseg.cli.compress_command import compress
from tilingseg.cli.evaluate_vectors import evaluate_vectors
from tilingseg.cli.model_commands import evaluate, models, train
from tilingseg.cli.options import (
    parse_bands,
    parse_list,
    parse_thresholds,
    regularize_option,
    run_options,
    scene_options,
)
from tilingseg.cli.output_options import output_flags
from tilingseg.cli.printing import (
    Bars,
    counted,
    duration,
    pixel_text,
    print_model,
    print_report,
    print_rows,
    print_scene,
)
from tilingseg.errors import TilingSegError
from tilingseg.places import place


def main() -> None:
    """Run the command line; the console script calls this."""
    # Threads of the network that wait give way to those that read, write and to other programs;
    # by default they spin, which on a busy machine triples the time. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # rasterio mutes this itself where a raster lies nowhere by design, but not from several threads
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a pipe of Windows knows no ≥
        sys.stdout.reconfigure(errors="replace")
    try:
        cli.main(standalone_mode=False)
    except TilingSegError as error:
        _fail(f"error: {error}", 1)
    except click.exceptions.Abort:
        _fail("interrupted; repeat the command to go on", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


def _fail(message: str, code: int) -> None:
    click.echo(message, err=True)
    sys.exit(code)


EXAMPLES = """\b
tilingseg run scene.tif          masks, polygons and a preview
tilingseg batch 'scenes/*.tif'   the same for many scenes
tilingseg plan scene.tif         what a run would do and need
tilingseg info scene.tif         what is in a scene or a model
tilingseg vectorize mask.tif     polygons from any mask raster
tilingseg models                 the models in the box, and what they can do
tilingseg train recipe.toml      a model from your own labels
tilingseg evaluate recipe.toml   how good a model is on areas held out
tilingseg evaluate-vectors truth.gpkg found.geojson   the same for polygons and lines
"""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog=EXAMPLES,
)
@click.version_option(__version__, prog_name="tilingseg")
def cli() -> None:
    """Segment rasters too large for memory: masks and polygons without seams."""


for _command in (batch, train, evaluate, compress, evaluate_vectors, models):
    cli.add_command(_command)


@cli.command()
@click.argument("scene", nargs=-1, required=True, metavar="SCENE", callback=one_scene)
@click.option(
    "-o",
    "--out",
    type=place,
    metavar="FOLDER|URL",
    help="Folder of the outputs, or s3://…. [default: SCENE_tilingseg]",
)
@click.option("-f", "--overwrite", is_flag=True, help="Replace the outputs of an earlier run.")
@click.option(
    "--resume/--no-resume", default=True, help="Go on with an interrupted run, or start anew."
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Say how long each stage took, too.")
@output_flags
@cluster_flags
@scene_options
def run(scene: str, *, quiet: bool, verbose: bool, **wishes: Any) -> None:
    """Segment SCENE (path or URL) and write masks, polygons and a preview.

    An interrupted run goes on where it was when the same command is given again.
    """
    from tilingseg import flow

    options = full_options(wishes)
    bars = Bars(quiet=quiet)
    try:
        if cluster_recipe(wishes) is None:
            report = flow.run(scene, wishes["out"], options=options, progress=bars)
        else:
            report = run_on_cluster(scene, wishes, options, bars)
    finally:
        bars.close()
    if not quiet:
        print_report(report, verbose=verbose)


@cli.command()
@click.argument("scene", nargs=-1, required=True, metavar="SCENE", callback=one_scene)
@scene_options
def plan(scene: str, **wishes: Any) -> None:
    """Print tiles, regions, memory and time of a run; no pixel of SCENE is read."""
    from tilingseg.job import estimate_job, prepare

    job = prepare(scene, run_options(wishes))
    estimate = estimate_job(job)
    print_scene(job)
    tiling, grid = job.plan.tiling, job.plan.grid
    size, why, bytes_ = tiling.batch_size, tiling.reasons, estimate.device_bytes
    on_device = f", {bytes_ / 1e9:.1f} GB of each device" if bytes_ else ""
    height, width = grid.tile_shape
    shared = f"overlap {grid.overlap_px} px" if len(grid) > 1 else "no overlap"
    print_rows(
        [
            ("stitching", f"{tiling.stitching}: {tiling.reason}"),
            ("tiles", f"{len(grid):,} of {height} × {width} px, {shared}; {why.tile}"),
            ("batches", f"{size} tile{'s' * (size > 1)}: {why.batch}"),
            ("regions", f"{job.plan.n_regions:,} of {job.plan.region_px:,} px: {why.region}"),
            ("inferred", f"{estimate.inferred_ratio:.2f} × the pixels of the scene"),
            ("device", f"{', '.join(job.devices)}, {job.plan.model.precision}"),
            ("engine", f"{job.plan.model.engine}: {job.plan.model.engine_reason}"),
            ("memory", f"about {estimate.memory_bytes / 1e9:.1f} GB{on_device}"),
            ("time", f"about {duration(estimate.seconds)} of inference"),
        ]
    )


@cli.command()
@click.argument("mask")
@click.option(
    "-o",
    "--out",
    type=place,
    metavar="FOLDER|URL",
    help="Folder of the outputs, or s3://…. [default: the current one]",
)
@click.option("-f", "--overwrite", is_flag=True, help="Replace files that exist.")
@click.option(
    "--classes",
    callback=parse_list,
    metavar="A,B",
    help="Classes [default: all]; of a mask that does not name them, their names in the order of "
    "their values: building gets footprints, road centrelines.",
)
@click.option(
    "--formats",
    callback=parse_list,
    default="geojson",
    metavar="A,B",
    help="geojson, geojsonseq, gpkg, fgb, parquet.",
)
@regularize_option
@click.option(
    "--connectivity",
    type=click.Choice(["4", "8"]),
    default="4",
    help="8: pixels that touch in a corner are one object, a MultiPolygon. Not for buildings and "
    "roads.",
)
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    callback=parse_thresholds,
    metavar="P|CLASS=P",
    help="Least probability, where MASK holds them; may repeat. [default: the file's, or 0.5]",
)
@click.option(
    "--pixel-size",
    type=float,
    metavar="METRES",
    help="Pixel size of a mask that does not say its own.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def vectorize(mask: str, *, quiet: bool, **wishes: Any) -> None:
    """Turn the classes of MASK into polygons and centrelines.

    MASK is any raster of whole numbers, one for each class, or of probabilities, one band a class.
    """
    from tilingseg import mask_flow
    from tilingseg.output_folder import OutputOptions
    from tilingseg.vectorize.layers import VectorOptions

    options = mask_flow.VectorizeOptions(
        classes=wishes["classes"],
        thresholds=wishes["thresholds"],
        pixel_m=wishes["pixel_size"],
        outputs=OutputOptions(
            formats=wishes["formats"],
            vectors=VectorOptions(
                regularize=wishes["regularize"],
                connectivity=8 if wishes["connectivity"] == "8" else 4,
            ),
        ),
        overwrite=wishes["overwrite"],
    )
    bars = Bars(quiet=quiet)
    try:
        results = mask_flow.vectorize(mask, wishes["out"], options=options, progress=bars)
    finally:
        bars.close()
    if quiet:
        return
    for _, path in results.outputs:
        click.echo(path)
    rows = counted(tuple(results.n_features.items()), tuple(results.left_out.items()))
    print_rows([*rows, *(("note", note) for note in results.notes)], err=True)


@cli.command()
@click.argument("path")
@click.option("--bands", callback=parse_bands, metavar="1,2,3", help="Bands to look at.")
def info(path: str, bands: tuple[int, ...] | None) -> None:
    """Print what is in a scene, or in a model (a .safetensors file or a bundled name)."""
    from tilingseg.model.load import available_models, load_model
    from tilingseg.readers import open_scene

    if path in available_models() or path.endswith(".safetensors"):
        print_model(load_model(path))
        return
    reader = open_scene(path, bands=bands)
    scene = reader.scene
    print_rows(
        [
            ("scene", scene.uri),
            ("size", f"{scene.width:,} × {scene.height:,} px"),
            ("bands", ", ".join(f"{band.index} {band.name}" for band in scene.bands)),
            ("values", scene.dtype),
            ("crs", scene.georef.crs or "none: pixel coordinates"),
            ("pixel", pixel_text(scene.georef.gsd_m)),
            *(("note", note) for note in scene.notes),
        ]
    )
    reader.close()
