"""HTTP API: takes uploads, returns jobs and their files. Errors are JSON with a message."""

import importlib.resources
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from diffusionpose.app.description import SettingsView, description
from diffusionpose.app.guard import Guard, Hosts
from diffusionpose.app.jobs import Job, Jobs
from diffusionpose.app.options import (
    available_formats,
    display_name,
    each_once,
    file_name,
    parse_options,
)
from diffusionpose.app.worker import UPLOAD
from diffusionpose.errors import UsageError
from diffusionpose.version import __version__

PAGE = {
    "/": "index.html",
    "/app.css": "app.css",
    "/app.js": "app.js",
    "/icon.svg": "icon.svg",
}
TICK = 0.2
"""Seconds between calls of `Jobs.tick`."""
UPLOAD_PAUSE = 60
"""Seconds without data after which an upload is aborted."""


def create_app(jobs: Jobs, hosts: Hosts) -> Starlette:
    """Create the ASGI app, which drives `jobs` while it runs; the caller closes them."""

    @asynccontextmanager
    async def watched(_: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_keep_going, jobs)
            yield
            tasks.cancel_scope.cancel()

    api = _Api(jobs)
    routes = [Route(path, partial(_page, name)) for path, name in PAGE.items()]
    routes += [
        Route("/openapi.json", api.description),
        Route("/api/settings", api.settings),
        Route("/api/jobs", api.create, methods=["POST"]),
        Route("/api/jobs/{id}", api.show, methods=["GET"]),
        Route("/api/jobs/{id}", api.delete, methods=["DELETE"]),
        Route("/api/jobs/{id}/cancel", api.cancel, methods=["POST"]),
        Route("/api/jobs/{id}/video", api.video),
        Route("/api/jobs/{id}/zip", api.archive),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={HTTPException: _as_json},
        lifespan=watched,
    )


async def _keep_going(jobs: Jobs) -> None:
    while True:
        jobs.tick()
        await anyio.sleep(TICK)


async def _page(name: str, _: Request) -> Response:
    folder = Path(str(importlib.resources.files("diffusionpose"))) / "assets" / "app"
    return FileResponse(folder / name)


async def _as_json(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


class _Api:
    """Request handlers."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def description(self, _: Request) -> Response:
        """Return the OpenAPI description."""
        return JSONResponse(description())

    async def settings(self, _: Request) -> Response:
        """Return the settings that the page needs."""
        limits = self._jobs.settings
        view = SettingsView(
            formats=available_formats(),
            max_upload_bytes=limits.max_upload_bytes,
            keep_minutes=limits.keep_minutes,
            version=__version__,
        )
        return JSONResponse(view.model_dump())

    async def create(self, request: Request) -> Response:
        """Create a job from an upload: the body is the video, the query has the options."""
        try:
            query = each_once(request.query_params.multi_items())
            name = display_name(query.pop("name", ""))
            options = parse_options(query)
        except UsageError as error:
            raise HTTPException(422, str(error)) from error
        if self._jobs.is_full():
            raise HTTPException(429, "There are too many videos in the queue. Try again later.")
        with _stored():
            folder = self._jobs.begin_upload()
        try:
            await _receive(request, folder / UPLOAD, self._jobs.settings.max_upload_bytes)
            job = self._jobs.add(folder, name, options)
        except ClientDisconnect:
            return Response(status_code=408)  # the client is gone
        finally:
            self._jobs.discard_upload(folder)
        return self._view(job, 201)

    async def show(self, request: Request) -> Response:
        return self._view(self._job(request))

    async def cancel(self, request: Request) -> Response:
        job = self._job(request)
        self._jobs.cancel(job)
        return self._view(job)

    async def delete(self, request: Request) -> Response:
        self._jobs.delete(self._job(request))
        return Response(status_code=204)

    async def video(self, request: Request) -> Response:
        job = self._job(request)
        return _file(job, job.film, "video/mp4", None)

    async def archive(self, request: Request) -> Response:
        job = self._job(request)
        return _file(
            job, job.archive, "application/zip", f"{Path(file_name(job.name)).stem}-poses.zip"
        )

    def _job(self, request: Request) -> Job:
        job = self._jobs.find(request.path_params["id"])
        if job is None:
            keep = f"{self._jobs.settings.keep_minutes:g} minutes"
            raise HTTPException(404, f"There is no such job. Results are deleted after {keep}.")
        return job

    def _view(self, job: Job, status: int = 200) -> Response:
        return JSONResponse(self._jobs.view(job).model_dump(), status)


def _file(job: Job, path: Path, media_type: str, name: str | None) -> Response:
    """Send a file of a finished job, or the requested range of it."""
    if job.state != "done":
        raise HTTPException(409, "There are no results: this job is not done.")
    try:
        found = path.stat()
    except OSError as error:  # e.g. temporary files were cleaned up
        raise HTTPException(404, "This file no longer exists: upload the video again.") from error
    return FileResponse(path, media_type=media_type, filename=name, stat_result=found)


@contextmanager
def _stored() -> Iterator[None]:
    """Report storage errors, such as a full disk, to the client."""
    try:
        yield
    except OSError as error:
        text = f"The video cannot be stored: {error.strerror or error}."
        raise HTTPException(507, text) from error


async def _receive(request: Request, target: Path, most: int) -> None:
    """Write the body to a file that only this user can read; abort if it exceeds `most` bytes."""
    too_large = HTTPException(413, f"The video is larger than the limit of {most / 1e6:g} MB.")
    announced = request.headers.get("content-length", "0")
    if len(announced) > 15 or (
        announced.isascii() and announced.isdecimal() and int(announced) > most
    ):
        raise too_large
    size = 0
    with (
        _stored(),
        open(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file,
    ):
        stream = request.stream()
        while chunk := await _next_chunk(stream):
            size += len(chunk)
            if size > most:
                raise too_large
            await run_sync(file.write, chunk)
    if size == 0:
        raise HTTPException(422, "The upload is empty.")


async def _next_chunk(stream: AsyncIterator[bytes]) -> bytes:
    """Next chunk of the body; empty at the end."""
    with anyio.move_on_after(UPLOAD_PAUSE):
        return await anext(stream, b"")
    raise HTTPException(408, "The upload stalled.")
