"""One process writes to a run directory at a time. The lock dies with that process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from pathlib import Path

from rm_experiments.errors import LockedError

LOCK_FILE = ".lock"


class Lock:
    """`.lock` of a directory, held by flock(2)."""

    def __init__(self, directory: Path, key: str = "run_dir") -> None:
        """`key`: the setting that names the directory."""
        self.directory = directory
        self._key = key
        self._descriptor: int | None = None

    def take(self) -> None:
        """Raises ConfigError, naming the holder, when another process has it."""
        path = self.directory / LOCK_FILE
        while True:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._hold(self._descriptor)
            # The one who had it may have deleted the file after it was opened here: then this lock is nobody's.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._descriptor), os.stat(path)):
                    break
            self._close()
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        # Children that are forked (loader workers, say) share the lock: it would outlive this process with them.
        os.register_at_fork(after_in_child=self._close)

    def release(self) -> None:
        """Give it back."""
        if self._descriptor is not None:
            path = self.directory / LOCK_FILE
            # The directory may have been removed, and made again by another process, whose lock it is then.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._descriptor), os.stat(path)):
                    path.unlink()
            self._close()

    def _hold(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
            self._close()
            place = f"{self._key}={self.directory}"
            raise LockedError(
                f"{place}: is being written by {holder}; wait for it, or choose another {self._key}"
            ) from error
        except OSError as error:
            # A file system without locks: nobody is kept out.
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def check_lock(directory: Path, key: str = "run_dir") -> None:
    """Raises ConfigError when another process writes to a directory. A lock that a killed one left is deleted.

    Args:
        key: the setting that names the directory.
    """
    try:
        descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    one = Lock(directory, key)
    one._descriptor = descriptor
    one._hold(descriptor)
    one.release()
