"""Many watchers of one task in one process, as cheap as Python can: plain sockets, one epoll, frames taken apart by hand.
They share the cores with the service that they measure.

    crowd.py HOST PORT PATH TOKEN COUNT

It connects all, says so in a line of JSON on stdout, waits for a task's id on stdin, attaches all, and reads until each
has the task's last line; another line on stdin, and it goes. When a frame came is told by the kernel's own time stamp of it, so how late this process gets
round to reading it does not count; that lateness is reported besides.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import struct
import sys
import time
from datetime import datetime

# linux/socket.h; not in the socket module.
SO_TIMESTAMPNS = 35
TEXT, CLOSE, PING = 0x81, 0x88, 0x89
STAMP = struct.Struct("qq")


class Line:
    """One line of the log, over all watchers. Times are seconds of the wall clock."""

    __slots__ = ("count", "first", "last", "last_read", "written")

    def __init__(self, written: float) -> None:
        self.written = written
        self.first = self.last = self.last_read = 0.0
        self.count = 0


class Watcher:
    __slots__ = ("attached", "done", "next", "rest", "socket")

    def __init__(self, host: str, port: int, path: str) -> None:
        self.socket = socket.create_connection((host, port), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A watcher's key protects nobody here, so all have the one of the RFC's example.
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.rest, self.attached, self.done, self.next = b"", False, False, 1

    def shake(self) -> None:
        answer = b""
        while b"\r\n\r\n" not in answer:
            part = self.socket.recv(4096)
            if not part:
                raise SystemExit(f"crowd: refused: {answer!r}")
            answer += part
        if not answer.startswith(b"HTTP/1.1 101"):
            raise SystemExit(f"crowd: refused: {answer[:200]!r}")
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def send(self, opcode: int, payload: bytes) -> None:
        """One frame with a mask of zeros, which changes nothing."""
        size = len(payload)
        head = struct.pack("!BB", opcode, 0x80 | size) if size < 126 else struct.pack("!BBH", opcode, 0x80 | 126, size)
        self.socket.sendall(head + bytes(4) + payload)


class Crowd:
    def __init__(self, watchers: list[Watcher]) -> None:
        self.watchers = watchers
        self.lines: dict[int, Line] = {}
        self.lags: list[float] = []
        self.reads = self.left = 0
        self.all_attached = 0.0

    def attach(self, token: str, task: str) -> None:
        text = json.dumps({"token": token, "taskId": task, "after": 0}).encode()
        for watcher in self.watchers:
            watcher.send(TEXT, text)
        self.left = len(self.watchers)

    def watch(self) -> None:
        poll = select.epoll()
        by_fd = {watcher.socket.fileno(): watcher for watcher in self.watchers}
        for fd in by_fd:
            poll.register(fd, select.EPOLLIN)
        buffer = bytearray(65536)
        waiting_to_attach = len(self.watchers)
        clock, unpack = time.time, STAMP.unpack
        while self.left:
            ready = poll.poll(60)
            if not ready:
                raise SystemExit("crowd: nothing came for 60 s")
            for fd, _ in ready:
                watcher = by_fd[fd]
                size, ancillary, _, _ = watcher.socket.recvmsg_into([buffer], 64)
                now = clock()
                if not size:
                    raise SystemExit("crowd: the service closed a connection")
                seconds, nanoseconds = unpack(ancillary[0][2])
                came = seconds + nanoseconds / 1e9
                attached = watcher.attached
                self.take(watcher, buffer[:size], came, now)
                if watcher.attached and not attached:
                    waiting_to_attach -= 1
                    if not waiting_to_attach:
                        self.all_attached = now
                elif not waiting_to_attach:
                    self.lags.append(now - came)
                if watcher.done:
                    poll.unregister(fd)
                    self.left -= 1

    def take(self, watcher: Watcher, data: bytes, came: float, now: float) -> None:
        """All frames that are whole; the rest of one waits for more."""
        if watcher.rest:
            data = watcher.rest + data
        place, end = 0, len(data)
        while end - place >= 2:
            size, start = data[place + 1], place + 2
            if size == 126:
                if end - place < 4:
                    break
                size, start = data[place + 2] << 8 | data[place + 3], place + 4
            elif size == 127:
                raise SystemExit("crowd: a frame of over 64 KiB")
            if start + size > end:
                break
            opcode = data[place]
            place = start + size
            if opcode == TEXT:
                self.line(watcher, data[start:place], came, now)
            elif opcode == PING:
                watcher.send(0x8A, data[start:place])
            else:
                raise SystemExit(f"crowd: a frame that was not expected, opcode {opcode:#x}: {bytes(data[start:place])!r}")
        watcher.rest = bytes(data[place:])

    def line(self, watcher: Watcher, text: bytes, came: float, now: float) -> None:
        if not watcher.attached:
            if b'"task attached."' not in text:
                raise SystemExit(f"crowd: not attached: {bytes(text)!r}")
            watcher.attached = True
            return
        at = text.find(b'"seq":') + 6
        seq = int(text[at : text.find(b",", at)])
        if seq != watcher.next:
            raise SystemExit(f"crowd: line {seq} came where {watcher.next} was due")
        watcher.next = seq + 1
        line = self.lines.get(seq)
        if line is None:
            written = json.loads(text)["payload"]["time"]
            line = self.lines[seq] = Line(datetime.fromisoformat(written).timestamp())
            line.first = came
        line.count += 1
        if came < line.first:
            line.first = came
        if came > line.last:
            line.last = came
        if now > line.last_read:
            line.last_read = now
        if b'"state":' in text:
            watcher.done = True


def connect(host: str, port: int, path: str, count: int) -> list[Watcher]:
    """Fifty at a time, so that no listen queue overflows."""
    watchers: list[Watcher] = []
    while len(watchers) < count:
        some = [Watcher(host, port, path) for _ in range(min(50, count - len(watchers)))]
        for watcher in some:
            watcher.shake()
        watchers += some
    return watchers


def say(words: dict[str, object]) -> None:
    print(json.dumps(words), flush=True)


def main() -> None:
    host, port, path, token, count = sys.argv[1:]
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    begin = time.monotonic()
    crowd = Crowd(connect(host, int(port), path, int(count)))
    say({"connected": int(count), "seconds": time.monotonic() - begin})
    task = sys.stdin.readline().strip()
    cpu, begin = time.process_time(), time.monotonic()
    crowd.attach(token, task)
    crowd.watch()
    cpu, seconds = time.process_time() - cpu, time.monotonic() - begin
    lags = sorted(crowd.lags) or [0.0]
    say({
        "all_attached": crowd.all_attached,
        "cpu_share": cpu / seconds,
        "lag_ms": {name: 1000 * lags[min(len(lags) - 1, int(len(lags) * share))] for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1))},
        # Each line: when it was written, when it had come to the first and to the last, when that one had read it; by how many.
        "lines": [[seq, line.written, line.first, line.last, line.last_read, line.count] for seq, line in sorted(crowd.lines.items())],
    })
    sys.stdin.readline()


if __name__ == "__main__":
    main()
