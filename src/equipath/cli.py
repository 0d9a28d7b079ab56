"""The command line: ``equipath data list | fetch | make | slide | verify``; further rooms add their commands
to :data:`app`.

A :class:`equipath.data.DataError` is shown as its sentence, without a traceback, and ends with exit code 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Equivariant deep learning on tissue images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Data sets: what there is, fetch, verify, render.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Root = Annotated[
    Path | None, typer.Option(help="Folder of the data sets; $EQUIPATH_DATA or ~/equipath-data by default.")
]


def _source(name: str) -> Any:
    from equipath.data import SOURCES

    if name not in SOURCES:
        typer.echo(f"There is no public data set {name!r}; known are {', '.join(SOURCES)}.", err=True)
        raise typer.Exit(2)
    return SOURCES[name]


@data_app.command("list")
def list_(root: Root = None) -> None:
    """Show every data set: what is installed, size, licence, and how it is had."""
    from equipath.data import SOURCES, data_root
    from equipath.data.fetch import human, status

    typer.echo(f"Data sets in {data_root(root)} (set EQUIPATH_DATA or --root for another folder)\n")
    typer.echo("slides       rendered, needs no file   tasks: tumour, tissue, nuclei, texture, cores, pairs")
    for name, source in SOURCES.items():
        state, what = status(source, root)
        typer.echo(f"{name:<12} {state:<10} {human(source.download):>8}   tasks: {', '.join(source.tasks)}")
        typer.echo(f"             {source.title}")
        typer.echo(f"             licence: {source.licence}; access: {source.access}")
        if what:
            typer.echo(f"             here: {what}")


@data_app.command("fetch")
def fetch_(
    name: str,
    root: Root = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Single items, where a set is fetched in pieces (repeat; 'all').")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before fetching.")] = False,
    remove_archives: Annotated[bool, typer.Option(help="Delete archives once they are unpacked.")] = False,
) -> None:
    """Fetch a public data set, or continue where the last run stopped.

    Source, licence and size are shown first.
    """
    from equipath.data import DataError, data_root
    from equipath.data.fetch import describe, fetch

    source = _source(name)
    if not yes:
        typer.echo(describe(source, data_root(root) / source.folder))
        typer.confirm("Fetch it under this licence?", abort=True)
    try:
        fetch(source, root, only=only or (), say=typer.echo, bar=True, keep_archives=not remove_archives)
    except DataError as error:
        typer.echo(f"equipath: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo("equipath: stopped; run the same command again to continue.", err=True)
        raise typer.Exit(130) from None


@data_app.command("verify")
def verify_(
    names: Annotated[
        list[str] | None, typer.Argument(help="Data sets; all that are here by default.")
    ] = None,
    root: Root = None,
) -> None:
    """Hash what is here anew and open each set; exit code 1 if anything is wrong."""
    from equipath.data import SOURCES, DataError
    from equipath.data.fetch import status, verify

    chosen = (
        [_source(n) for n in names]
        if names
        else [s for s in SOURCES.values() if status(s, root)[0] != "missing"]
    )
    if not chosen:
        typer.echo("No public data set is here; `equipath data list` shows what there is.")
    problems = []
    for source in chosen:
        try:
            problems += verify(source, root, say=typer.echo)
        except DataError as error:
            problems.append(str(error))
    for problem in problems:
        typer.echo(f"equipath: {problem}", err=True)
    if problems:
        raise typer.Exit(1)


@data_app.command("make")
def make_(
    task: Annotated[str, typer.Argument(help="tumour, tissue, nuclei, texture, cores or pairs.")],
    folder: Annotated[Path, typer.Argument(help="New folder; one subfolder a split.")],
    splits: Annotated[
        list[str] | None, typer.Option("--split", help="train, val, test (repeat); all three.")
    ] = None,
    fraction: Annotated[float, typer.Option(help="Part of each split, nested.")] = 1.0,
    seed: int = 0,
    source: Annotated[
        str, typer.Option("--from", help="Any data set's name, in place of rendered slides.")
    ] = "slides",
    root: Root = None,
) -> None:
    """Write a data set (rendered slides by default) to disk as pictures and a table, readable anywhere."""
    from equipath.data import DataError, load, write_folder

    try:
        for split in splits or ["train", "val", "test"]:
            if (folder / split / "items.csv").exists():
                typer.echo(f"{folder / split}: already there")
                continue
            items = load(source, task, split, fraction, seed, root)
            total = len(items)  # type: ignore[arg-type]
            with typer.progressbar(length=total, label=split) as bar:

                def step(_done: int, _total: int, bar: Any = bar) -> None:
                    bar.update(1)

                write_folder(items, folder / split, progress=step)
            typer.echo(f"{folder / split}: {total} items")
    except (DataError, ValueError) as error:
        typer.echo(f"equipath: {error}", err=True)
        raise typer.Exit(1) from error


@data_app.command("slide")
def slide_(
    path: Annotated[Path, typer.Argument(help="New TIFF file.")],
    seed: int = 0,
    kind: Annotated[str, typer.Option(help="lymph_node, colon, breast or prostate_core.")] = "lymph_node",
    mpp: Annotated[float, typer.Option(help="Microns per pixel of the finest level.")] = 0.5,
    size: Annotated[
        tuple[int, int] | None, typer.Option(help="Height and width in pixels; the whole section by default.")
    ] = None,
) -> None:
    """Write a rendered section as a whole slide: a tiled pyramidal TIFF that OpenSlide reads."""
    from equipath.data import DataError
    from equipath.data.slides import Slide
    from equipath.data.wsi import write_slide

    if path.exists():
        typer.echo(f"equipath: {path} is there already; choose another name, or delete it.", err=True)
        raise typer.Exit(1)
    try:
        scene = Slide(seed, kind)
        with typer.progressbar(length=100, label="rendering") as bar:

            def step(done: int, total: int) -> None:
                bar.update(100 * done // total - bar.pos)

            write_slide(scene, path, size, mpp, progress=step)
    except (DataError, ValueError) as error:
        typer.echo(f"equipath: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    """Entry point of the ``equipath`` command."""
    app()


if __name__ == "__main__":
    main()
