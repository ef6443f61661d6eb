"""`datago-gpu serve`: a folder of images as a Dataroom, in the foreground."""

from __future__ import annotations

import os
from typing import NoReturn

import click

from datago_gpu.errors import ConfigError
from datago_gpu.interpreter import command
from datago_gpu.server import DataroomServer

KEY_VARIABLE = "DATAROOM_API_KEY"


@click.command()
@click.argument("root", type=click.Path())
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind to; 0.0.0.0 is every interface.")
@click.option("--port", default=8000, show_default=True, help="Port of the API; 0 picks a free one.")
@click.option(
    "--payload-port",
    type=int,
    help="Serve the image files from this port, as another origin, like an object store; 0 picks a free one. "
    "Default: the API's port.",
)
@click.option(
    "--key",
    help="The token that clients must send. Default: the environment variable DATAROOM_API_KEY, else a new token, "
    "which is printed. With --key the program restarts itself, to keep the token out of the list of processes.",
)
@click.option(
    "--url-ttl", default=86400.0, show_default=True, help="How long the URL of an image file is valid, in seconds."
)
@click.option("--hidden", is_flag=True, help="Also serve hidden images: `._x.jpg`, those in `.ipynb_checkpoints`, ...")
def serve(
    root: str, host: str, port: int, payload_port: int | None, key: str | None, url_ttl: float, hidden: bool
) -> None:
    """Serve the images below the folder ROOT with the HTTP API of a Dataroom.

    Beside NAME.jpg, an optional NAME.json may hold id, source, attributes, tags, duplicate_state, datasets,
    coca_embedding and latents. The latents are further files of the image, with paths relative to NAME.json:

    \b
      {"attributes": {"caption": "a cat"}, "tags": ["indoor"],
       "latents": [{"latent_type": "segmentation", "file": "masks/cat.png", "is_mask": true},
                   {"latent_type": "image_depth", "file": "depth/cat.jpg"},
                   {"latent_type": "vae", "file": "vae/cat.npy"}]}

    The server notices new, changed and removed files. It never writes to ROOT.

    The first line printed ends with the API's URL. Ctrl-C stops the server.
    """
    if key is not None:
        given = click.get_current_context().params
        _start_again(key, root, {name: value for name, value in given.items() if name not in ("root", "key")})
    key = os.environ.get(KEY_VARIABLE) or None
    try:
        server = DataroomServer(
            root, host=host, port=port, payload_port=payload_port, key=key, url_ttl_s=url_ttl, hidden=hidden
        )
        server.serve_forever(lambda: _announce(server, tell_key=key is None))
    except ConfigError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from error


def _start_again(key: str, root: str, options: dict[str, object]) -> NoReturn:
    """Restarts the program with the key in its environment, because every user of the machine sees a command line."""
    os.environ[KEY_VARIABLE] = key
    words: list[str] = []
    for name, value in options.items():
        if value is not None and value is not False:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    line = command("datago_gpu.cli", "serve", *words, "--", root)
    os.execv(line[0], line)


def _announce(server: DataroomServer, *, tell_key: bool) -> None:
    click.echo(f"Serving {len(server):,} images of {server.root} at {server.url}")
    click.echo(f"Image files from {server.payload_url}")
    click.echo("Settings for clients:")
    click.echo(f"  export DATAROOM_API_URL={server.url}")
    click.echo(f"  export {KEY_VARIABLE}={server.key}" if tell_key else f"  and {KEY_VARIABLE}, as it is set here")
    click.echo("Press Ctrl-C to stop the server.")
