"""Log of network use, in every Python process started with this folder on PYTHONPATH."""

import json
import os
import socket
import sys

EVENTS = (
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyaddr",
    "socket.gethostbyname",
    "socket.getnameinfo",
    "socket.sendmsg",
    "socket.sendto",
    "urllib.Request",
    "http.client.connect",
    "ftplib.connect",
    "smtplib.connect",
    "webbrowser.open",
)


def _plain(value):
    if isinstance(value, socket.socket):
        return socket.AddressFamily(value.family).name
    return value if isinstance(value, str | int | None) else repr(value)


def _note(event, arguments):
    values = [[*map(_plain, one)] if isinstance(one, tuple) else _plain(one) for one in arguments]
    line = json.dumps({"event": event, "process": os.getpid(), "arguments": values})
    # A single write to a file opened for appending keeps the lines of several processes apart.
    target = os.open(os.environ["NETWORK_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(target, f"{line}\n".encode())
    os.close(target)


def _watch(event, arguments):
    if event in EVENTS:
        _note(event, arguments)


if "NETWORK_LOG" in os.environ:
    sys.addaudithook(_watch)
    _note("start", ())
