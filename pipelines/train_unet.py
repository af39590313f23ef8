"""Train a network from a recipe: `python pipelines/train_unet.py recipe.toml --data DIR --out DIR`.

Reads the recipe, shows progress, prints the path of the model. How training works is in
`tilingseg.training.loop`.
"""

from __future__ import annotations

from pathlib import Path

import click
from tqdm import tqdm

from tilingseg.errors import TilingSegError
from tilingseg.training.loop import train
from tilingseg.training.recipe import read_recipe


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="Folder the recipe refers to."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for results.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in the output folder.")
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads; default: all.")
def main(recipe: Path, data: Path, out: Path, resume: bool, threads: int | None) -> None:
    """Train a network from a TOML recipe."""
    try:
        with tqdm(unit="step") as bar:

            def show(done: int, total: int, text: str) -> None:
                if bar.total != total:
                    # A resumed job starts in the middle; what was done before took no time now.
                    bar.reset(total)
                    bar.initial = bar.n = done - 1
                bar.set_postfix_str(text, refresh=False)
                bar.update(done - bar.n)

            path = train(
                read_recipe(recipe), data, out, resume=resume, threads=threads, progress=show
            )
    except TilingSegError as error:
        raise click.ClickException(str(error)) from error
    click.echo(path)


if __name__ == "__main__":
    main()
