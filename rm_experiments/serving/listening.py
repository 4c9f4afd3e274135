"""The socket that the server listens on, made before a model is loaded."""

from __future__ import annotations

import errno
import ipaddress
import socket
from contextlib import suppress

from rm_experiments.config.rules import refuse
from rm_experiments.errors import ConfigError

BACKLOG = 2048
"""Connections that the system keeps until they are taken."""
_OTHER_FILES = 512
"""Open files that are no connections, and connections that are told that there are too many."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, and refuses connections until `open_door`: a model may take minutes to load.

    Raises:
        ConfigError: when the port is taken or forbidden, or the host is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise refuse("host", host, "is no address or name that is known here", "host=127.0.0.1") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _explained(error, host, port) from error
    listener.setblocking(False)
    return listener


def open_door(listener: socket.socket) -> None:
    """From now on connections are taken.

    Raises:
        ConfigError: when another process has come first.
    """
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise _explained(error, host, port) from error


def allow_files(connections: int) -> None:
    """Raise the process's limit of open files to what so many connections need, as far as the system lets it."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = connections + _OTHER_FILES
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def is_public(listener: socket.socket) -> bool:
    """Whether other machines may reach it."""
    return not ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def url_of(listener: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = "::1" if listener.family is socket.AF_INET6 else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _explained(error: OSError, host: str, port: int) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return refuse("port", port, f"is taken on {host}", "another one, or port=0 for any that is free")
    if error.errno in (errno.EACCES, errno.EPERM):
        return refuse("port", port, "may not be taken by this user (below 1024)", "port=8000")
    if error.errno == errno.EADDRNOTAVAIL:
        return refuse("host", host, "is no address of this machine", "host=127.0.0.1")
    return refuse("host", host, f"cannot be listened on ({error.strerror})", "host=127.0.0.1")
