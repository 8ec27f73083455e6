"""A bucket on this machine: as much of Google Cloud Storage's API as a folder's files are read by."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

NAME = "somebodys-bucket"
CLOSED = "a-closed-bucket"


def answer(root: Path, address: str) -> tuple[int, bytes]:
    """Status and content of a request; the bucket's objects are the files below a folder."""
    url = urlsplit(address)
    query = parse_qs(url.query)
    bucket, _, name = url.path.removeprefix("/storage/v1/b/").partition("/o")
    if bucket != NAME:
        return (403 if bucket == CLOSED else 404), b"{}"
    if not name:
        paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        begun = [path for path in paths if path.startswith(query.get("prefix", [""])[0])]
        return 200, json.dumps({"items": [_describe(root, path) for path in begun]}).encode()
    path = root / unquote(name.removeprefix("/"))
    if not path.is_file():
        return 404, b"{}"
    described = json.dumps(_describe(root, path.relative_to(root).as_posix())).encode()
    return 200, path.read_bytes() if "alt" in query else described


def _describe(root: Path, name: str) -> dict[str, str]:
    return {"bucket": NAME, "name": name, "size": str((root / name).stat().st_size), "generation": "1"}


@contextmanager
def serve(root: Path) -> Iterator[str]:
    """The address of a server of the bucket for the length of a block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = answer(root, self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
