"""Pages and their JSON twins: one set of data, shown by a template or sent as it is."""

import base64
import json
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

import stablerep
from services.console.sessions import Session

TWIN = ".json"
"""Ends the address of a page's JSON twin."""
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def wants_json(request: Request) -> bool:
    """Whether the JSON twin is asked for: by `.json` at the end of the address, or by the header Accept."""
    if request.scope.get("twin"):
        return True
    accept = request.headers.get("accept", "")
    return "application/json" in accept and "text/html" not in accept


class Renderer:
    """Templates with what each of them may use; everything that is filled in is escaped."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix.rstrip("/")
        self._environment = Environment(
            loader=PackageLoader("services.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            number=number,
            counted=counted,
            seconds=duration,
            ago=ago,
            bytes=size,
            percent=percent,
            moment=moment,
            base64=encoded,
            recipe=described,
            method=method,
            datasets=datasets,
        )
        self._environment.globals.update(url=self.url, version=stablerep.__version__)
        for name in self._environment.list_templates():  # compiled now, not for the first who asks
            self._environment.get_template(name)

    def url(self, path: str) -> str:
        """A path of the console as a browser asks for it, behind the prefix.

        One that ends in `.json` by itself, by the name of a job, ends in a slash: it is no twin's.
        """
        return self.prefix + (f"{path}/" if path.endswith(TWIN) else path)

    def fragment(self, template: str, **data: Any) -> str:
        """A part of a page."""
        return self._environment.get_template(template).render(**data)

    def page(
        self, request: Request, template: str, data: dict[str, Any], *, status: int = 200, **shown: Any
    ) -> Response:
        """The page, or `data` as JSON; `shown` is for the page alone."""
        if wants_json(request):
            return json_response(data, status)
        session: Session | None = request.scope.get("session")
        path = request.scope["path"]
        twin = f"{self.prefix}{path}{TWIN}"
        content = self.fragment(
            template,
            **data,
            **shown,
            here=path,
            twin=twin + (f"?{request.url.query}" if request.url.query else ""),
            csrf=session.csrf if session else "",
            signed_in=bool(session and session.token),
        )
        return HTMLResponse(content, status)

    def done(self, request: Request, path: str, data: dict[str, Any]) -> Response:
        """The answer to an action: the page to look at next, or JSON."""
        if wants_json(request):
            return json_response(data)
        return RedirectResponse(self.url(path), 303)


def json_response(data: Any, status: int = 200) -> Response:
    return JSONResponse(json.loads(json.dumps(data, default=_plain)), status)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    return str(value)


def encoded(content: bytes) -> str:
    """For an address that holds an image itself."""
    return base64.b64encode(content).decode()


def number(value: float | None, digits: int = 0) -> str:
    """1234567 -> 1,234,567."""
    return "" if value is None else f"{value:,.{digits}f}"


def counted(count: int, noun: str) -> str:
    """1 -> 1 shard, 1234 -> 1,234 shards."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def percent(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value * 100:.{digits}f} %"


def size(value: float) -> str:
    """Bytes in a unit that suits."""
    power = 0
    while value >= 1000 and power < len(_UNITS) - 1:
        value /= 1000
        power += 1
    return f"{value:.3g} {_UNITS[power]}"


def duration(seconds: float | None) -> str:
    """90061 -> 1 d 1 h."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((place for place, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count or unit == "s")


def moment(time: datetime | None) -> Markup:
    """A moment in UTC, for people and machines."""
    if time is None:
        return Markup("")
    text = f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}">{}</time>').format(time.isoformat(), text)


def ago(time: datetime | None) -> str:
    """How far a moment is, before or after now."""
    if time is None:
        return ""
    seconds = (datetime.now(UTC) - time).total_seconds()
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"


def method(config: dict[str, Any]) -> str:
    """A run's method; nothing where its configuration is of another kind."""
    found = config.get("method")
    return str(found.get("name", "")) if isinstance(found, dict) else ""


def datasets(config: dict[str, Any]) -> str:
    """The names of a run's datasets."""
    found = config.get("datasets")
    return ", ".join(str(one).rpartition("/")[2] for one in found) if isinstance(found, list) else ""


def described(recipe: dict[str, Any]) -> str:
    """How a dataset's images were made, in a line; of another version's recipe what it has of that."""
    model, steps, sampler, scale = (
        recipe.get(key, "?") for key in ("model", "steps", "sampler", "guidance_scale")
    )
    return f"{model}, {steps} steps of {sampler}, guidance {scale}"
