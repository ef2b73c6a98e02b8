"""Serve the files of a folder on the loopback address, in the parts that are asked for.

    python tests/ranged_server.py FOLDER

prints its port, and then a line a request: the method, the path, the bytes sent and the port of the
connection, which is kept for further requests. A process of its own: GDAL waits for an answer with
Python's lock held.
"""

import http.server
import re
import sys
from pathlib import Path


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder = Path()

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self) -> None:
        file, data = self.folder / self.path.partition("?")[0].lstrip("/"), b""
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(part[1]), int(part[2] or len(data) - 1)) if part else (0, len(data) - 1)
        sent = data[first : last + 1]
        told = len(sent) if self.command == "GET" else 0
        # In one piece, as the lines of threads would mix.
        print(f"{self.command} {self.path} {told} {self.client_address[1]}\n", end="", flush=True)
        self.send_response(206 if part else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(sent)))
        if part:
            end = first + len(sent) - 1
            self.send_header("Content-Range", f"bytes {first}-{end}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(sent)

    def log_message(self, *_) -> None:
        pass


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[1])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
