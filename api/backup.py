"""``isthmus backup`` and ``isthmus restore``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from api import server
from api.commands import ONLY_MINE, default_config, default_data_dir, fail
from broker import backup as backups
from broker.sealing import SealError
from broker.settings import SettingsError, load
from broker.store import StoreError
from isthmus import __version__


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.", show_default=False)],
    config: Annotated[Path | None, typer.Option(help="The config file.", show_default=False)] = None,
    with_key: Annotated[
        bool, typer.Option("--with-key", help="The key file too. Who has it can open all secrets.")
    ] = False,
    with_images: Annotated[
        bool, typer.Option("--with-images", help="The disks of the catalogue too.")
    ] = False,
) -> None:
    """Write all that a broker knows into one file, as of one moment. The broker may be at work."""
    server.configure_logging("warning", "text")
    os.umask(ONLY_MINE)
    config = config or default_config()
    try:
        settings = load(config)
        with _progress() as progress:
            header = backups.write(
                settings,
                file,
                software=__version__,
                config=config,
                with_key=with_key,
                with_images=with_images,
                progress=progress,
            )
    except (SettingsError, StoreError, SealError, backups.BackupError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot write {file}: {error.strerror or error}")
    typer.echo(f"{file}: {header.rows} rows, schema {header.revision}")
    if not with_key:
        typer.echo(f"The key {header.key_fingerprint} is not in it: keep {settings.key_file} elsewhere.")


def restore(
    file: Annotated[Path, typer.Argument(help="A backup.", show_default=False)],
    data_dir: Annotated[
        Path | None,
        typer.Option(help="The data directory, where there is no config file yet.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="The config file; one that is there is kept, and says where to.", show_default=False
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of the database and the images that are there.")
    ] = False,
) -> None:
    """Put a backup where no broker runs: its checksums are compared first, and all of its rows are there at the end, or none."""
    server.configure_logging("warning", "text")
    os.umask(ONLY_MINE)
    folder = (data_dir or default_data_dir()).absolute()
    config = config or (folder / "isthmus.toml" if data_dir else default_config())
    made = not config.exists()
    try:
        if made:
            backups.verify(file)
            text = backups.config_of(file)
            if text is None:
                fail(f"{config} does not exist, and {file} has no config", "run `isthmus init` first")
            config.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            config.write_bytes(text)
        with _progress() as progress:
            header = backups.restore(load(config), file, replace=replace, progress=progress)
    except BaseException as error:
        if made:
            config.unlink(missing_ok=True)
        if isinstance(error, SettingsError | StoreError | SealError | backups.BackupError):
            fail(str(error))
        if isinstance(error, OSError):
            fail(f"cannot restore {file}: {error}")
        raise
    typer.echo(f"{header.rows} rows of {header.made_at} restored{' (config too)' if made else ''}")
    named = "" if config == default_config() else f" --config {config}"
    typer.echo(f"Next: isthmus serve{named}, then `isthmus event list` for what has changed since")


@contextmanager
def _progress() -> Iterator[backups.Progress]:
    """A bar for each table, and for the images, where a person looks."""
    if not sys.stderr.isatty():
        yield backups.quiet
        return
    from rich.console import Console
    from rich.progress import Progress

    bars: dict[str, Any] = {}
    with Progress(console=Console(stderr=True), transient=True) as shown:

        def progress(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = shown.add_task(what, total=total)
            shown.update(bars[what], completed=done)

        yield progress
