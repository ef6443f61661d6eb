"""A socket on this machine that tells the metrics to whoever connects, such as `datago-gpu top`. Needs no package."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import stat
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from datago_gpu.errors import ConfigError
from datago_gpu.metrics.text_format import render_text
from datago_gpu.metrics.watched import HasStats, Registration, Watched

__all__ = ["listen", "socket_folder"]

log = logging.getLogger("datago_gpu")

_AGAIN_S, _SEND_S = 0.1, 5.0
"""How long a client may take to read."""


def listen(loader: HasStats, path: str | os.PathLike[str] | None = None, *, name: str = "") -> Registration:
    """Opens a Unix socket for `datago-gpu top`, until the loader is closed or no longer used.

    loader: a Loader, or a LoaderDataset, whose counts go on over its passes.
    path: of the socket. None: PID.sock in a folder that only this user can read, where `datago-gpu top` looks. Several
        loaders of a process share a socket.
    name: tells loaders apart: "train", "val".

    Raises ConfigError if the socket cannot be made, or the name is taken.
    """
    where = (
        os.fsdecode(os.path.abspath(path))
        if path is not None
        else str(socket_folder(make=True) / f"{os.getpid()}.sock")
    )
    with _lock:
        server = _servers.get(where) or _Server(where)
        try:
            registration = server.watched.add(loader, name)
        except ConfigError:
            server.stop_if_unused()
            raise
    registration.path = where
    return registration


def socket_folder(*, make: bool = False) -> Path:
    """Returns the folder with the sockets of this user's programs. Raises ConfigError if it belongs to another user."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = Path(runtime) / "datago_gpu" if runtime else Path(tempfile.gettempdir()) / f"datago_gpu-{os.getuid()}"
    try:
        if make:
            folder.mkdir(mode=0o700, exist_ok=True)
        if folder.exists() and folder.stat().st_uid != os.getuid():
            raise ConfigError(f"the folder {str(folder)!r} for sockets belongs to another user: pass a path")
    except OSError as error:
        raise ConfigError(f"the folder {str(folder)!r} for sockets cannot be made ({error}): pass a path") from error
    return folder


class _Server:
    """Answers each connection with the metrics as text, on a thread of its own. It ends with the last loader."""

    def __init__(self, path: str) -> None:
        self._path, self._process, self.watched = path, os.getpid(), Watched(self.stop_if_unused)
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            _remove_dead(path)
            self._socket.bind(path)
            os.chmod(path, 0o600)  # whatever the umask is
            self._socket.listen()
        except OSError as error:
            self._socket.close()
            raise ConfigError(f"the socket {path!r} for metrics cannot be made ({error}): pass another path") from error
        _servers[path] = self
        atexit.register(self._unlink)
        threading.Thread(target=self._serve, name="datago-metrics", daemon=True).start()

    def stop_if_unused(self) -> None:
        """Ends the server if no loader is registered."""
        if not self.watched and _servers.get(self._path) is self:
            del _servers[self._path]
            atexit.unregister(self._unlink)
            self._unlink()
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # ends `accept`

    def _unlink(self) -> None:
        if os.getpid() == self._process:  # not in a fork
            with suppress(OSError):
                os.unlink(self._path)

    def _serve(self) -> None:
        with self._socket:
            while True:
                try:
                    client, _ = self._socket.accept()
                except OSError:
                    if _servers.get(self._path) is not self:
                        return
                    time.sleep(_AGAIN_S)  # such as without free descriptors
                    continue
                with client, suppress(OSError):
                    client.settimeout(_SEND_S)
                    client.sendall(self._text())

    def _text(self) -> bytes:
        try:
            return render_text(self.watched.readings()).encode()
        except Exception:  # one answer is lost, the server is not
            log.exception("the metrics cannot be read")
            return b""


def _remove_dead(path: str) -> None:
    """Removes a socket that a program has left behind. Any other file stays, and `bind` then fails."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
        except OSError:
            return


_lock = threading.RLock()
_servers: dict[str, _Server] = {}
os.register_at_fork(after_in_child=_servers.clear)  # the server's thread is in the parent alone
