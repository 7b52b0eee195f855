"""The server on an address, until a signal ends it."""

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
from diffusionpose.paths import check_regular, temporary_folder

_PATIENCE = 2
"""Seconds that downloads get to end when the server does."""


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_work(model: str, device: str) -> None:
    """Says at once what every job would say: whether the model and the device are there.

    Raises:
        CheckpointError: If the model cannot be had; one of the hub is fetched.
        UsageError: If there is no such device.
    """
    path = Path(model)
    if path.suffix == ".onnx" and not path.is_dir():
        files = [path]
    else:
        folder = find_pretrained(model)
        files = [folder / CONFIG, folder / WEIGHTS]
    for file in files:
        check_regular(file, CheckpointError)
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file")
    if device not in ("auto", "cpu"):  # which are everywhere, and cost the server no torch
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
    """Serves the page until SIGINT or SIGTERM, which then take the course that they took before.

    Args:
        settings: Limits, and what is run.
        host: Address to listen on.
        port: 0 takes a free one.
        on_ready: Called with the address once it answers.
        work: What a worker does.

    Raises:
        UsageError: If the address cannot be listened on.
    """
    os.umask(0o077)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # By default the process would end on the spot, and the folder stay.
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
            access_log=False,  # ids of jobs are their keys
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
            if os.name == "posix":  # elsewhere it would share the port with whoever has it
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener
