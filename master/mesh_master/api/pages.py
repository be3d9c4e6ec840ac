"""The dashboard's files, as they are in the package."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from litestar import Response, get
from litestar.params import FromPath
from litestar.response import Redirect

from mesh_master.api.context import AnyRequest
from mesh_master.api.problems import NotFound

__all__ = ["routes"]

_FOLDER = Path(__file__).parent / "dashboard"
_FILES = {
    path.relative_to(_FOLDER).as_posix(): path for path in _FOLDER.rglob("*") if path.is_file()
}
# Asked for again each time, and not sent again if it is the same: an upgrade is seen at once.
_CACHE = {"Cache-Control": "no-cache"}
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".md": "text/plain"}


@get("/", include_in_schema=False)
async def index(request: AnyRequest) -> Response[bytes] | Redirect:
    """The page; the rest is done by its script."""
    asked = request.scope["raw_path"].partition(b"?")[0].decode("ascii", "replace")
    if not asked.endswith("/"):
        # Relative addresses need the slash where the application is mounted. So does this one: not
        # every framework says where that is.
        return Redirect(f"{asked.rpartition('/')[2]}/")
    return _answer(request, "index.html")


@get("/assets/{name:path}", include_in_schema=False)
async def asset(request: AnyRequest, name: FromPath[Path]) -> Response[bytes]:
    """A file of the page."""
    return _answer(request, name.as_posix().lstrip("/"))


def _answer(request: AnyRequest, name: str) -> Response[bytes]:
    path = _FILES.get(name)
    if path is None:
        raise NotFound(f"the dashboard has no file '{name}'")
    stat = path.stat()
    tag = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
    headers = {**_CACHE, "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(b"", status_code=304, headers=headers)
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(path.read_bytes(), media_type=kind, headers=headers)


routes = [index, asset]
