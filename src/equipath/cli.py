"""The command line: ``equipath data list | fetch | make | slide | verify``, ``train``, ``run``, ``report``; further
rooms add their commands to :data:`app`.

What a user can mend (:class:`equipath.data.DataError`, :class:`equipath.train.TrainingError`, a wrong name or
number) is shown as its sentence, without a traceback, and ends with exit code 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
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

Compiled = Annotated[
    bool | None,
    typer.Option(
        "--compiled/--plain",
        help="Render slides with loops that this machine's C compiler makes (faster), or with PyTorch alone; compiled "
        "where there is a compiler when left out.",
    ),
]


def _source(name: str) -> Any:
    from equipath.data import SOURCES

    if name not in SOURCES:
        typer.echo(f"There is no public data set {name!r}; known are {', '.join(SOURCES)}.", err=True)
        raise typer.Exit(2)
    return SOURCES[name]


@contextmanager
def _sentences(again: str = "run the same command again to continue") -> Iterator[None]:
    """What the user can mend ends in its sentence; ``again`` is said where the user stops the command."""
    from equipath.data import DataError
    from equipath.train import TrainingError

    try:
        yield
    except (DataError, TrainingError, ValueError) as error:
        typer.echo(f"equipath: {error}", err=True)
        raise typer.Exit(1) from error
    except BrokenPipeError:  # of `| head`; the caller of the command knows
        raise
    except OSError as error:
        typer.echo(f"equipath: {error.filename or 'a file'}: {error.strerror or error}.", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo(f"equipath: stopped; {again}.", err=True)
        raise typer.Exit(130) from None


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
    name: Annotated[str, typer.Argument(help="A public data set; `equipath data list` shows all.")],
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
    from equipath.data import data_root
    from equipath.data.fetch import describe, fetch

    source = _source(name)
    if not yes:
        typer.echo(describe(source, data_root(root) / source.folder))
        typer.confirm("Fetch it under this licence?", abort=True)
    with _sentences():
        fetch(source, root, only=only or (), say=typer.echo, bar=True, keep_archives=not remove_archives)


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
    seed: Annotated[int, typer.Option(help="Of the fraction; of what is drawn, with rendered slides.")] = 0,
    source: Annotated[
        str, typer.Option("--from", help="Any data set's name, in place of rendered slides.")
    ] = "slides",
    compiled: Compiled = None,
    root: Root = None,
) -> None:
    """Write a data set (rendered slides by default) to disk as pictures and a table, readable anywhere.

    A run that was stopped goes on when the same command is given again.
    """
    from equipath.data import DataError, load, read_folder, write_folder

    if compiled is not None and source != "slides":
        raise typer.BadParameter("--compiled and --plain are for rendered slides; leave them out with --from.")
    options = {} if compiled is None else {"compiled": compiled}
    with _sentences():
        for split in splits or ["train", "val", "test"]:
            items: Any = load(source, task, split, fraction, seed, root, **options)
            total = len(items)
            if (folder / split / "items.csv").exists():
                there = read_folder(folder / split)
                if (there.name, there.task, there.names) != (items.name, items.task, items.names):
                    raise DataError(
                        f"{folder / split} holds {len(there)} other items ({there.name}, {there.task}); choose another "
                        "folder, or delete this one."
                    )
                typer.echo(f"{folder / split}: already there; delete it to write it anew")
                continue
            with typer.progressbar(length=total, label=split) as bar:

                def step(_done: int, _total: int, bar: Any = bar) -> None:
                    bar.update(1)

                write_folder(items, folder / split, progress=step)
            typer.echo(f"{folder / split}: {total} items")


@data_app.command("slide")
def slide_(
    path: Annotated[Path, typer.Argument(help="New TIFF file.")],
    seed: Annotated[int, typer.Option(help="Another seed, another section.")] = 0,
    kind: Annotated[str, typer.Option(help="lymph_node, colon, breast or prostate_core.")] = "lymph_node",
    mpp: Annotated[float, typer.Option(help="Microns per pixel of the finest level.")] = 0.5,
    size: Annotated[
        tuple[int, int] | None, typer.Option(help="Height and width in pixels; the whole section by default.")
    ] = None,
    compiled: Compiled = None,
) -> None:
    """Write a rendered section as a whole slide: a tiled pyramidal TIFF that OpenSlide reads."""
    from equipath.data.slides import Slide
    from equipath.data.wsi import write_slide

    if path.exists():
        typer.echo(f"equipath: {path} is there already; choose another name, or delete it.", err=True)
        raise typer.Exit(1)
    with _sentences(again="nothing is left of it"):
        scene = Slide(seed, kind)
        with typer.progressbar(length=100, label="rendering") as bar:

            def step(done: int, total: int) -> None:
                bar.update(100 * done // total - bar.pos)

            write_slide(scene, path, size, mpp, progress=step, compiled=compiled)
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def _keep_memory() -> bool:
    """Ask glibc to keep freed memory for the next step; whether it will.

    It gives large blocks back to the system at once, which then clears them anew, page by page, for every step of a
    training: a third to a fifth of the page faults is left, at a somewhat higher peak.
    """
    import ctypes
    import platform

    if platform.libc_ver()[0] != "glibc":
        return False
    top_pad, trim_threshold, mmap_max = -2, -1, -4  # malloc.h
    wishes = ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**28))
    libc = ctypes.CDLL(None)
    return all([libc.mallopt(name, value) == 1 for name, value in wishes])


Seed = Annotated[int, typer.Option(help="Of initial weights, shuffling and augmentation.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]


@app.command("train")
def train_(
    network: Annotated[
        str, typer.Argument(help="unet, p4m_unet, seunet, p4m_densenet, …; `list` shows all.")
    ],
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoints, best weights, log and curves; a run that is there is continued. "
            "runs/NETWORK-DATA-SEED by default."
        ),
    ] = None,
    data: Annotated[str, typer.Option(help="slides, or a public data set.")] = "slides",
    task: Annotated[str | None, typer.Option(help="Of the data set; its own by default.")] = None,
    fraction: Annotated[float, typer.Option(help="Part of the training set, nested.")] = 1.0,
    crop: Annotated[int | None, typer.Option(help="Central pixels of each picture.")] = None,
    width: Annotated[int | None, typer.Option(help="Channels, fields or growth of the first block.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training set.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Pictures a step, over all processes together.")] = 16,
    lr: Annotated[float, typer.Option(help="Learning rate; with onecycle and cosine the highest.")] = 1e-3,
    optimizer: Annotated[str, typer.Option(help="adam or sgd.")] = "adam",
    weight_decay: Annotated[float, typer.Option(help="Pull of each step towards zero weights (L2).")] = 0.0,
    schedule: Annotated[str, typer.Option(help="none, plateau, onecycle or cosine.")] = "plateau",
    patience: Annotated[int, typer.Option(help="Epochs without improvement before plateau halves lr.")] = 20,
    augment: Annotated[bool, typer.Option(help="Turn and mirror each training picture at random.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed, 16-mixed or 64-true.")] = "32-true",
    root: Root = None,
) -> None:
    """Train a network on a data set; the weights of the best validation epoch are kept.

    Start it with `torchrun --nproc-per-node N -m equipath train …` to share each batch between N processes.
    """
    import torch
    from torch import nn

    from equipath.data import load
    from equipath.losses import dice_cross_entropy
    from equipath.models.named import NETWORKS, build
    from equipath.models.seunet import SEUNet
    from equipath.train import Pairs, fit, in_memory, roto_reflections

    if network == "list":
        for name, known in NETWORKS.items():
            typer.echo(f"{name:<16} {known.task:<9} --width: {known.width} of {known.cls}")
        return
    _keep_memory()
    with _sentences():
        if network not in NETWORKS:
            raise ValueError(f"got the network {network!r}; known are {', '.join(NETWORKS)}.")
        target = "mask" if NETWORKS[network].task == "segment" else "label"
        sets = {}
        names: tuple[str, ...] = ()
        for split, part in (("train", fraction), ("val", 1.0)):
            items = load(data, task, split, part, 0, root)
            names = names or items.classes  # type: ignore[attr-defined]
            if len(items) and target not in items[0]:  # type: ignore[arg-type]
                raise ValueError(
                    f"{network} wants a {target} for each picture; {data} has none for this task."
                )
            sets[split] = in_memory(Pairs(items, target, crop))
            mpp = items[0].get("mpp") if len(items) else None  # type: ignore[arg-type]
        most = max(int(targets.max()) if len(targets) else 0 for _, targets in sets.values())
        classes = [*names, *map(str, range(len(names), most + 1))]
        torch.manual_seed(seed)
        model = build(network, len(classes), width)
        loss = model.loss if isinstance(model, SEUNet) else dice_cross_entropy
        folder = folder or Path("runs") / f"{network}-{data}-{seed}"
        said = fit(
            model,
            sets["train"],
            sets["val"],
            loss=nn.functional.cross_entropy if target == "label" else loss,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            schedule=None if schedule == "none" else schedule,
            patience=patience,
            augment=roto_reflections if augment else None,
            classes=len(classes),
            folder=folder,
            seed=seed,
            device=device,
            precision=precision,
            config={
                "model": network,
                "width": width,
                "classes": classes,
                "data": data,
                "task": task,
                "fraction": fraction,
                "crop": crop,
                "mpp": mpp if mpp and mpp > 0 else None,  # nan, where not known, is not greater
            },
        )
    if int(os.environ.get("RANK", 0)) > 0:
        return  # one process of several speaks
    best = said.history[said.best_epoch - 1]
    typer.echo(
        f"{folder}: best of {len(said.history)} epochs is {said.best_epoch}, validation loss "
        f"{best['validation_loss']:.4f}; {said.seconds:.0f} s on {said.device}"
    )


@app.command("run")
def run_(
    name: Annotated[str, typer.Argument(help="steerable, pcam, gunet, seunet or srenet.")],
    data: Annotated[str, typer.Option(help="slides, or a public data set.")] = "slides",
    size: Annotated[str, typer.Option(help="small: minutes; paper: the paper's own setting.")] = "small",
    seed: Seed = 0,
    seeds: Annotated[
        int, typer.Option(min=1, help="So many runs, with --seed and the seeds after it; shown as mean ± sd.")
    ] = 1,
    arm: Annotated[
        list[str] | None, typer.Option(help="Only this network of the table; may be given several times.")
    ] = None,
    fraction: Annotated[
        list[float] | None,
        typer.Option(
            min=0, max=1, help="gunet, pcam, steerable: only this part of the training set; may be given several times."
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="pcam, steerable: this rate of learning in place of the settings'.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoints, in FOLDER/DATA-SIZE-SEED: a run that was stopped goes on there. runs/NAME by default."
        ),
    ] = None,
    root: Root = None,
) -> None:
    """Run a paper's experiment and keep its numbers in book/results; `equipath report` shows them."""
    from importlib import import_module
    from inspect import signature

    from equipath.experiments import NAMES
    from equipath.experiments.results import SIZES, flat, mean_sd

    _keep_memory()
    with _sentences():
        if name not in NAMES:
            raise ValueError(f"got the experiment {name!r}; known are {', '.join(NAMES)}.")
        if size not in SIZES:
            raise ValueError(f"got --size {size}; known are {', '.join(SIZES)}.")
        experiment = import_module(f"equipath.experiments.{name}")
        chosen: dict[str, Any] = {"arms": arm} if arm else {}
        if fraction:
            if "fractions" not in signature(experiment.run).parameters:
                raise ValueError(f"{name} trains on the whole set; leave --fraction out.")
            chosen["fractions"] = fraction
        if rate is not None:
            if "lr" not in signature(experiment.run).parameters:
                raise ValueError(f"{name} takes its rates from its settings; leave --rate out.")
            chosen["lr"] = rate
        found: dict[str, list[Any]] = {}
        for one in range(seed, seed + seeds):
            place = folder or Path("runs") / name
            metrics = experiment.run(data=data, size=size, seed=one, folder=place, root=root, **chosen)
            for key, value in flat(metrics).items():
                found.setdefault(key, []).append(value)
        for key, values in found.items():
            numbers = [v for v in values if isinstance(v, int | float)]
            if len(values) > 1 and len(numbers) == len(values):
                typer.echo(f"{key:<50} {mean_sd(numbers, 4)}")
            else:
                words = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
                typer.echo(f"{key:<50} {', '.join(words)}")


@app.command("report")
def report_() -> None:
    """Make the book's page of results anew, from the runs in book/results."""
    from equipath.experiments.report import write

    with _sentences():
        typer.echo(f"wrote {write()}")


def _network(name: str) -> tuple[Any, tuple[str, ...] | None, float | None]:
    """A network, its classes' names and the microns per pixel it was trained on, by folder or shipped name."""
    from equipath.experiments import first_unet
    from equipath.train import TrainingError, load_model

    if Path(name).is_dir():
        model, about = load_model(name)
        config = about["settings"]["config"]
        return model, tuple(config["classes"]), config.get("mpp")
    if name == "first_unet":
        return first_unet.trained_unet(), first_unet.PIXEL_CLASSES, first_unet.MPP
    raise TrainingError(
        f"There is no folder {name!r}, and no network of that name is shipped (first_unet is); `equipath train` "
        "makes such a folder."
    )


@app.command("segment")
def segment_(
    picture: Annotated[Path, typer.Argument(help="A slide, a picture, or with --cluster a folder of cores.")],
    model: Annotated[str, typer.Option(help="Folder of `equipath train`, or first_unet, which is shipped.")],
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("segmented"),
    mpp: Annotated[
        float | None, typer.Option(help="Microns per pixel to segment at; those of the training by default.")
    ] = None,
    slide_mpp: Annotated[
        float | None, typer.Option(help="Microns per pixel of the file, where it does not say.")
    ] = None,
    tile: Annotated[int, typer.Option(help="Side of a window in pixels; smaller needs less memory.")] = 1024,
    margin: Annotated[
        int | None, typer.Option(help="Pixels of a window without a say; the network's reach by default.")
    ] = None,
    everywhere: Annotated[bool, typer.Option("--everywhere", help="Look at glass too.")] = False,
    cluster: Annotated[
        int | None, typer.Option(help="Group the features of a folder's cores into so many clusters.")
    ] = None,
    layer: Annotated[int, typer.Option(help="With --cluster: stage of the network, 1 to 4.")] = 4,
    device: Device = "auto",
) -> None:
    """Segment a picture or a whole slide: NAME.mask.tif (pyramid of labels), NAME.preview.png, NAME.json.

    A run that was stopped goes on when the same command is given again.
    """
    from equipath.segment import cluster_folder, is_slide, segment

    with _sentences():
        network, classes, trained = _network(model)
        with typer.progressbar(length=1, label=picture.name) as bar:

            def step(done: int, total: int) -> None:
                bar.length = total
                bar.update(done - bar.pos)

            if cluster is not None:
                left_out: list[str] = []
                rows = cluster_folder(
                    network,
                    picture,
                    out,
                    cluster,
                    layer=layer,
                    everywhere=everywhere,
                    device=device,
                    progress=step,
                    left_out=left_out.append,
                )
            else:
                made = segment(
                    network, picture, out, classes=classes, mpp=trained if mpp is None else mpp,
                    slide_mpp=slide_mpp, tile=tile, margin=margin, everywhere=everywhere, device=device,
                    progress=step,
                )  # fmt: skip
    if cluster is not None:
        typer.echo(f"{out}: {len(rows)} pictures in {cluster} clusters; shares in {out / 'clusters.csv'}")
        for sentence in left_out:
            typer.echo(f"equipath: {sentence}", err=True)
        if left_out:
            raise typer.Exit(1)
        return
    for name, share in made.shares.items():
        typer.echo(f"{name:<24} {100 * share:5.1f} % of the tissue")
    if trained and mpp is None and slide_mpp is None and not is_slide(picture):
        typer.echo(
            f"{picture} does not say its microns per pixel and was taken to have {trained:g}, those of the training; "
            "--slide-mpp says others."
        )
    equal = "as of the whole picture at once" if made.exact else "less than the network's reach"
    typer.echo(
        f"{made.mask}: {made.size[0]} x {made.size[1]} pixels, {made.tiles} of {made.windows} windows of {made.tile}, "
        f"margin {made.margin} ({equal}); {made.megapixels / max(made.seconds, 1e-9):.2f} megapixels a second"
    )


def main() -> None:
    """Entry point of the ``equipath`` command."""
    app()


if __name__ == "__main__":
    main()
