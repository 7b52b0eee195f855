"""The `app` command: serves the web page on this machine."""

import importlib.util
import sys
import threading
import webbrowser
from typing import Annotated

import typer

from diffusionpose.errors import MissingExtraError


def serve_app(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; unless it is local, other machines can reach the page."
        ),
    ] = "127.0.0.1",
    max_upload_mb: Annotated[
        float, typer.Option(min=0.001, help="Largest video, in 10^6 bytes.")
    ] = 500,
    keep_minutes: Annotated[
        float, typer.Option(min=0.01, help="Minutes after which results are deleted.")
    ] = 60,
    time_limit: Annotated[float, typer.Option(min=1, help="Time limit of a job, seconds.")] = 3600,
    memory_limit: Annotated[
        float, typer.Option(min=0.1, help="GiB of memory that a job may use (on Linux).")
    ] = 8,
    model: Annotated[str, typer.Option(help="The model, as in predict.")] = "tiny",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Serve a page on this machine to upload a video, watch its progress and get results (extra: app)."""
    for package in ("starlette", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "app")
    from diffusionpose.app.jobs import AppSettings
    from diffusionpose.app.serve import check_work, is_local, serve

    settings = AppSettings(max_upload_mb, keep_minutes, time_limit, memory_limit, model, device)
    check_work(model, device)
    if not is_local(host):
        text = f"anyone who can reach {host} can upload videos, and nothing is encrypted"
        print(f"diffusionpose: warning: {text}", file=sys.stderr)

    def tell(address: str) -> None:
        print(f"diffusionpose: {address} (Ctrl-C ends it)", flush=True)
        # Without a terminal this is a script, which must not open a browser.
        if browser and sys.stdout.isatty():
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    serve(settings, host, port, on_ready=tell)
