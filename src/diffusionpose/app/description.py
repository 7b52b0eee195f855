"""OpenAPI description of the server, derived from the models that validate its data."""

from typing import Any

from pydantic import BaseModel

from diffusionpose.app.jobs import JobView
from diffusionpose.app.options import FORMAT_NAMES, FormatName, JobOptions
from diffusionpose.version import __version__

Json = dict[str, Any]
_REFERENCES = "#/components/schemas/{model}"


class ErrorView(BaseModel):
    """An error message for users."""

    error: str


class SettingsView(BaseModel):
    """Settings of the server that the page needs."""

    formats: tuple[FormatName, ...]
    max_upload_bytes: int
    keep_minutes: float
    version: str


def description() -> Json:
    """Build the OpenAPI 3.1 document."""
    one, ok = "/api/jobs/{id}", _answer("The job.", "JobView")
    paths: Json = {
        "/api/settings": {
            "get": _operation("settings", {"200": _answer("The settings.", "SettingsView")})
        },
        "/api/jobs": {"post": _create()},
        one: {
            "get": _of_job("job", {"200": ok}),
            "delete": _of_job(
                "delete", {"204": {"description": "The job and its files are deleted."}}
            ),
        },
        f"{one}/cancel": {"post": _of_job("cancel", {"200": ok})},
        f"{one}/video": {"get": _file("video", "video/mp4")},
        f"{one}/zip": {"get": _file("zip", "application/zip")},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "diffusionpose app", "version": __version__},
        "paths": paths,
        "components": {"schemas": _schemas()},
    }


def _schemas() -> Json:
    found: Json = {}
    for model in (JobView, ErrorView, SettingsView):
        schema = model.model_json_schema(ref_template=_REFERENCES, mode="serialization")
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    return found


def _answer(text: str, schema: str) -> Json:
    content = {"schema": {"$ref": _REFERENCES.format(model=schema)}}
    return {"description": text, "content": {"application/json": content}}


def _operation(name: str, answers: Json, **more: object) -> Json:
    refused = {"403": _answer("Another host or origin.", "ErrorView")}
    return {"operationId": name, "responses": {**answers, **refused}, **more}


def _of_job(name: str, answers: Json, *parameters: Json) -> Json:
    job_id = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    missing = {"404": _answer("There is no such job, or it was deleted.", "ErrorView")}
    return _operation(name, {**answers, **missing}, parameters=[job_id, *parameters])


def _file(name: str, media_type: str) -> Json:
    wanted = {"name": "Range", "in": "header", "schema": {"type": "string"}}
    binary = {"content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}
    plain = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    answers = {
        "200": {"description": "The whole file.", **binary},
        "206": {"description": "The requested range.", **binary},
        "400": {"description": "The range is malformed.", **plain},
        "409": _answer("The job is not done.", "ErrorView"),
        "416": {"description": "The range is beyond the end of the file.", **plain},
    }
    return _of_job(name, answers, wanted)


def _create() -> Json:
    answers = {
        "201": _answer("The queued job.", "JobView"),
        "408": _answer("The upload stalled.", "ErrorView"),
        "413": _answer("The video is too large.", "ErrorView"),
        "422": _answer(
            "An option is unknown, repeated or out of range, or the upload is empty.",
            "ErrorView",
        ),
        "429": _answer("There are too many jobs.", "ErrorView"),
        "507": _answer("The disk is full.", "ErrorView"),
    }
    body = {"schema": {"type": "string", "format": "binary", "minLength": 1}}
    upload = {"required": True, "content": {"application/octet-stream": body}}
    return _operation("create", answers, parameters=_option_parameters(), requestBody=upload)


def _option_parameters() -> list[Json]:
    name = {"name": "name", "in": "query", "schema": {"type": "string", "maxLength": 255}}
    found: list[Json] = [name]
    for option, schema in JobOptions.model_json_schema()["properties"].items():
        parameter: Json = {"name": option, "in": "query", "schema": schema}
        if option == "formats":
            items = {"type": "string", "enum": list(FORMAT_NAMES)}
            parameter["schema"] = {"type": "array", "items": items, "minItems": 1}
            parameter |= {"style": "form", "explode": False}
        if option == "height_m":  # queries have no null
            parameter["schema"] = {"type": "number", "minimum": 0.3, "maximum": 3}
        found.append(parameter)
    return found
