"""The least of a Redis client that measuring needs: send commands, read whole replies, take no reply on trust."""

import socket


class ServerError(Exception):
    """An error reply: `-ERR ...`."""


def encode(*args):
    """One command as bytes on the wire."""
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        arg = arg if isinstance(arg, bytes) else str(arg).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(arg), arg))
    return b"".join(parts)


class Client:
    """A blocking connection. `seconds` bounds every wait, so nothing here can hang."""

    def __init__(self, port, host="127.0.0.1", seconds=20):
        self.socket = socket.create_connection((host, port), seconds)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.file.close()
        self.socket.close()

    def __call__(self, *args):
        self.send(encode(*args))
        return self.reply()

    def send(self, data):
        self.socket.sendall(data)

    def reply(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise OSError("the connection was closed before a whole reply came")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b"-":
            raise ServerError(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._exactly(int(rest) + 2)[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [self.reply() for _ in range(int(rest))]
        raise OSError(f"not a reply: {line[:60]!r}")

    def _exactly(self, n):
        data = self.file.read(n)
        if len(data) != n:
            raise OSError(f"the connection was closed {n - len(data)} bytes before the end of a reply")
        return data


def key(i):
    """The i-th key, as redis-benchmark -r writes it."""
    return b"key:%012d" % i


def fill(port, keys, size, host="127.0.0.1"):
    """Gives the keys 0..keys values of `size` bytes, through the program at `port`: each proxy has its own hash."""
    value, step = b"x" * size, 100
    with Client(port, host) as client:
        for first in range(0, keys, step):
            batch = range(first, min(first + step, keys))
            client.send(b"".join(encode("SET", key(i), value) for i in batch))
            for _ in batch:
                if client.reply() != b"OK":
                    raise ServerError("SET was not answered with OK")
