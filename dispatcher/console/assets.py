"""The style sheet, the scripts and the logo: served under a name that changes with their content, so a browser asks once for each."""

import gzip
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_STATIC = Path(__file__).with_name("static")
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _Asset:
    content: bytes
    compressed: bytes
    media_type: str


class Assets:
    """The files in `static/` that pages use."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._assets: dict[str, _Asset] = {}
        for path in sorted(_STATIC.iterdir()):
            if path.suffix in _TYPES:
                content = path.read_bytes()
                served = f"{path.stem}.{sha256(content).hexdigest()[:12]}{path.suffix}"
                self._names[path.name] = f"static/{served}"
                self._assets[served] = _Asset(content, gzip.compress(content, mtime=0), _TYPES[path.suffix])

    def url(self, name: str) -> str:
        """Returns where the file is served, relative to the console's root."""
        return self._names[name]

    async def serve(self, request: Request) -> Response:
        """Answers with the file."""
        asset = self._assets.get(request.path_params["name"])
        if asset is None:
            raise HTTPException(404)
        headers = {"Cache-Control": _FOREVER, "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(asset.compressed, 200, headers | {"Content-Encoding": "gzip"}, asset.media_type)
        return Response(asset.content, 200, headers, asset.media_type)
