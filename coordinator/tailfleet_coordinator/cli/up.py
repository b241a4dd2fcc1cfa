"""``tailfleet up``: run the coordinator in the foreground."""

from pathlib import Path
from typing import Annotated

import typer

from tailfleet_coordinator.settings import Settings
from tailfleet_schema.errors import InputError


def up(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets boards of the network in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8765,
    public_url: Annotated[
        str | None, typer.Option(help="The address at which boards reach this coordinator, where it differs.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="PEM file of the certificate for https; with --tls-key.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's key, not encrypted.")] = None,
    state: Annotated[
        Path, typer.Option(envvar="TAILFLEET_STATE", help="Folder for the database, artifacts and tokens.")
    ] = Path("~/.tailfleet"),
    database_url: Annotated[
        str | None,
        typer.Option(envvar="TAILFLEET_DATABASE_URL", help="SQL database; default: SQLite in the state folder."),
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="An existing Ray cluster; default: Ray is started on this machine.")
    ] = None,
    ray_ports: Annotated[
        int | None,
        typer.Option(
            min=1024,
            max=65280,
            help="First of the 256 ports that Ray listens on; default: the first free block from 20765 on.",
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="A folder with the images of a dataset that was added index-only."),
    ] = None,
    lease_seconds: Annotated[
        float, typer.Option(min=1.0, help="A job whose board is silent for so long is given again.")
    ] = 120.0,
) -> None:
    """Run the coordinator: HTTP for boards and people, SQL, and Ray. Ends on SIGTERM or Ctrl-C."""
    # Imported late: a server's libraries are not needed to list boards.
    from tailfleet_coordinator.web.server import serve

    serve(
        Settings(
            state_dir=state.expanduser(),
            host=host,
            port=port,
            public_url=public_url,
            tls_cert=tls_cert,
            tls_key=tls_key,
            database_url=database_url,
            ray_address=ray_address,
            ray_ports=ray_ports,
            lease_seconds=lease_seconds,
            dataset_folders=folders_of(dataset or []),
        )
    )


def folders_of(texts: list[str]) -> dict[str, Path]:
    """``["pets=/data/pets"]`` as a dictionary. Raises ``InputError`` for a folder that is not there."""
    folders = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise InputError(f"--dataset {text!r} is not NAME=FOLDER", "such as --dataset pets=/data/pets")
        folders[name] = Path(folder).expanduser().resolve()
        if not folders[name].is_dir():
            raise InputError(f"there is no folder {folders[name]} for dataset {name!r}", "correct --dataset")
    return folders
