"""A PostgreSQL of its own for the queue, with fsync on, which may be stopped as a power cut does."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType

import psycopg

from common import WORK, fresh_name
from service import free_port

NAME = "data_patch"


class QueueServer:
    """Runs as the system's user postgres, since PostgreSQL refuses to run as root."""

    def __init__(self) -> None:
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
        if not versions:
            raise RuntimeError("PostgreSQL's programs are missing (Debian: postgresql)")
        self._programs = versions[-1].parent
        self.port = free_port()
        self._folder = WORK / "run" / fresh_name("queue")
        self._folder.mkdir(parents=True)
        user = pwd.getpwnam("postgres")
        os.chown(self._folder, user.pw_uid, user.pw_gid)
        self._run("initdb", "--auth=trust", f"--username={NAME}", "--no-locale", "--encoding=UTF8", "--pgdata", str(self._folder / "data"))
        self.start()
        with psycopg.connect(f"postgres://{NAME}@127.0.0.1:{self.port}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {NAME}")

    @property
    def url(self) -> str:
        return f"postgres://{NAME}@127.0.0.1:{self.port}/{NAME}"

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self._folder}"
        self._ctl("start", f"--options={options}", f"--log={self._folder}/log")

    def crash(self) -> float:
        """Stops it at once and starts it again, which recovers it from its log. Returns how long it was away."""
        begin = time.monotonic()
        self._ctl("stop", "--mode=immediate")
        time.sleep(2)
        self.start()
        return time.monotonic() - begin

    def _ctl(self, command: str, *options: str) -> None:
        self._run("pg_ctl", command, "--pgdata", str(self._folder / "data"), "--wait", *options)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        # Not captured: the server would keep the pipe open.
        subprocess.run(command, check=True, user="postgres", group="postgres", cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> QueueServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ctl("stop", "--mode=immediate")
        shutil.rmtree(self._folder, ignore_errors=True)
