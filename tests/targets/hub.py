"""A hub on this machine: as much of the API as huggingface_hub's snapshots ask for."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

NAME = "someone/some-model"


@dataclass
class Hub:
    """One repository, whose branches name commits, whose commits are folders; `sent` lists the files it gave."""

    branches: dict[str, str]
    commits: dict[str, Path]
    gated: bool = False
    datasets: bool = False
    address: str = ""
    sent: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of a request."""
        api = f"/api/{'datasets' if self.datasets else 'models'}/{NAME}/"
        if path.startswith(api):
            kind, revision = path.removeprefix(api).split("?")[0].split("/", 1)
            commit = self.branches.get(unquote(revision), revision)
            if commit not in self.commits:
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            listing = self._tree(self.commits[commit])
            return 200, {}, json.dumps(listing if kind == "tree" else {"id": NAME, "sha": commit}).encode()
        files = f"{'/datasets' if self.datasets else ''}/{NAME}/resolve/"
        if not path.startswith(files):
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        commit, name = path.removeprefix(files).split("/", 1)
        data = (self.commits[commit] / name).read_bytes()
        self.sent.append(name)
        return 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit}, data

    def _tree(self, folder: Path) -> list[dict[str, object]]:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return [
            {
                "type": "file",
                "path": path.relative_to(folder).as_posix(),
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
            }
            for path in paths
        ]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """The hub behind an address for the length of a block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, content = hub.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
