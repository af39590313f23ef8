"""A file server on this machine for tests of remote reading."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(BaseHTTPRequestHandler):
    """Serves `files` by range, as an object store does, and keeps a record of the requests."""

    files: dict
    failures: dict
    seen: list
    tag = '"first"'

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        self.seen.append((self.command, self.path))
        data = self.files.get(self.path)
        failures = self.failures.get(self.path, [])
        if data is None or (body and failures):
            self.send_error(404 if data is None else failures.pop(0))
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, stop = (int(found[1]), int(found[2]) + 1) if found else (0, len(data))
        part = data[start:stop]
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", self.tag)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
        self.end_headers()
        if body:
            self.wfile.write(part)

    def log_message(self, *args):
        pass


@contextmanager
def file_server():
    """Serve on a free port; yields the handler class with `url`, `files`, `failures`, `seen`."""
    handler = type("Handler", (FileServer,), {"files": {}, "failures": {}, "seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        handler.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield handler
        finally:
            server.shutdown()
            thread.join(10)
