"""A peer over a real socket that streams completions at chosen moments, well or badly."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What to send: (seconds to wait, bytes), each in a chunk of its own."""

    parts: Sequence[tuple[float, bytes]]
    status: int = 200
    content_type: str = "text/event-stream; charset=utf-8"
    breaks: bool = False  #: reset the connection instead of ending the body


@dataclass(slots=True)
class CompletionServer:
    """Replies in order, the last one for ever; remembers what was asked."""

    url: str
    requests: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)  #: path, body, headers


@contextmanager
def completion_server(*replies: Reply) -> Iterator[CompletionServer]:
    """Listen on a free port of this machine."""
    left = list(replies)
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.requests.append((self.path, body, dict(self.headers)))
            reply = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")
            self.end_headers()
            for wait_s, part in reply.parts:
                if closing.wait(wait_s):
                    return
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                self.wfile.flush()
            if reply.breaks:
                # no time to linger: the peer is told by a reset, as when a server dies
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                time.sleep(0.05)  # a reset overtakes data that was not read yet
                self.close_connection = True
                self.connection.close()
                return
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *_arguments: object) -> None:  # noqa: A002 - named by http.server
            """Say nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    told = CompletionServer(url=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield told
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def event(record: dict[str, Any]) -> bytes:
    """Frame one chunk."""
    return b"data: " + json.dumps(record).encode() + b"\n\n"


def text(word: str = "a", **more: Any) -> bytes:
    """Give a chunk of /v1/completions."""
    return event({"choices": [{"index": 0, "text": word, "finish_reason": None}], **more})


def said(delta: dict[str, Any], **more: Any) -> bytes:
    """Give a chunk of /v1/chat/completions."""
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}], **more})


def finish(**more: Any) -> bytes:
    """Give the chunk that ends a completion."""
    return event({"choices": [{"index": 0, "text": "", "finish_reason": "length"}], **more})
