"""Peers that drop, stall and refuse, by script, and a clock that does not wait."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pynetdicom
from pynetdicom import evt


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, seconds: float = 1000.0) -> None:
        self.seconds, self.slept = seconds, 0.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.seconds += seconds


@contextmanager
def dicom_peer(script: list, reject: tuple[int, int, int] | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield (port, SOP instance UIDs taken). script : a status for each object, or "drop" or "stall"; then success."""
    taken: list[str] = []
    over = threading.Event()
    entity = pynetdicom.AE("PACS")
    entity.supported_contexts = pynetdicom.AllStoragePresentationContexts

    def store(event):
        step = script.pop(0) if script else 0
        if step == "drop":
            event.assoc.dul.socket.close()
            return 0
        if step == "stall":
            over.wait(10)
            return 0
        if step >> 12 in (0, 0xB) and step != 0x0110:
            taken.append(str(event.request.AffectedSOPInstanceUID))
        return step

    def requested(event):
        if reject is not None:
            event.assoc.acse.send_reject(*reject)
            event.assoc.is_rejected = True
            event.assoc.kill()

    handlers = [(evt.EVT_C_STORE, store), (evt.EVT_REQUESTED, requested)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield server.server_address[1], taken
    finally:
        over.set()
        entity.shutdown()


@contextmanager
def socket_peer(stall: bool) -> Iterator[int]:
    """Yield the port of a server that takes a connection, and closes it at once or never says a word."""
    listener = socket.create_server(("127.0.0.1", 0))
    held = []

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            held.append(connection) if stall else connection.close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        # wakes the thread that waits in accept
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in held:
            connection.close()


@contextmanager
def web_peer(script: list) -> Iterator[tuple[str, list[dict]]]:
    """Yield (root, requests seen). script : (status, headers, body) or a function of the request; then 200 and {}."""
    seen: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = {"method": self.command, "path": self.path, "headers": dict(self.headers), "body": body}
            seen.append(request)
            step = script.pop(0) if script else (200, {}, {})
            if step == "drop":
                self.connection.close()
                self.close_connection = True
                return
            if step == "stall":
                over.wait(10)
                step = (200, {}, {})
            status, headers, answer = step(request) if callable(step) else step
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/dicom+json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_):
            pass

    over = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web", seen
    finally:
        over.set()
        server.shutdown()
        server.server_close()
