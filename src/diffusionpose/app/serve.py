"""Running the server on an address until a signal stops it."""

import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import uvicorn

from diffusionpose.app.guard import Hosts
from diffusionpose.app.jobs import AppSettings, Jobs
from diffusionpose.app.server import create_app
from diffusionpose.app.worker import Work, predict_upload
from diffusionpose.errors import CheckpointError, UsageError
from diffusionpose.model.pretrained import CONFIG, WEIGHTS, find_pretrained
from diffusionpose.paths import check_regular, is_exported, temporary_folder

_PATIENCE = 2
"""Seconds that running downloads get to finish on shutdown."""


def is_local(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_work(model: str, device: str) -> None:
    """Check on start-up that the model and the device exist; downloads a model from the hub.

    Raises:
        CheckpointError: If the model is not found.
        UsageError: If there is no such device.
    """
    if is_exported(model):
        files = [Path(model)]
    else:
        folder = find_pretrained(model)
        files = [folder / CONFIG, folder / WEIGHTS]
    for file in files:
        check_regular(file, CheckpointError)
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file")
    if device not in ("auto", "cpu"):  # always valid; avoids importing torch in the server
        from diffusionpose.predict import choose_device

        choose_device(device)


def serve(
    settings: AppSettings,
    host: str,
    port: int,
    *,
    on_ready: Callable[[str], None],
    work: Work = predict_upload,
) -> None:
    """Serve the page until SIGINT or SIGTERM, which are then passed to the previous handlers.

    Args:
        settings: Limits of the server, and the model it runs.
        host: Address to listen on.
        port: 0 selects a free port.
        on_ready: Called with the URL once the server is listening.
        work: Function that a worker runs.

    Raises:
        UsageError: If it cannot listen on the address.
    """
    os.umask(0o077)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # The default action would end the process without removing the folder.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with (
        _listen(host, port) as listener,
        temporary_folder("diffusionpose-app-") as root,
        closing(Jobs(root, settings, work)) as jobs,
    ):
        number = listener.getsockname()[1]
        config = uvicorn.Config(
            create_app(jobs, Hosts(host, number)),
            log_level="warning",
            access_log=False,  # job ids give access, so they must not be logged
            server_header=False,
            timeout_graceful_shutdown=_PATIENCE,
        )
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{number}/")
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # on Windows it would allow sharing a port that is in use
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener
