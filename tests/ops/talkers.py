"""Clients for tests of what is watched: one that goes on, one that does not read."""

import contextlib
import socket
import threading


def connect(server):
    host, _, port = server["addr"].rpartition(":")
    return socket.create_connection((host, int(port)), 5)


def encoded(words):
    return b"".join([f"*{len(words)}\r\n".encode(), *(f"${len(w)}\r\n{w}\r\n".encode() for w in words)])


def pipeline(server, requests):
    """Sends them all at once, and waits for as many lines; what they say does not matter."""
    said = b"".join(encoded(words) for words in requests)
    with connect(server) as sock:
        exchange(sock, said, len(requests))


def exchange(sock, said, lines):
    sock.sendall(said)
    while lines > 0:
        got = sock.recv(65536)
        if not got:
            raise ConnectionError("closed by the server")
        lines -= got.count(b"\n")


class Talker:
    """Says these requests in a row, again and again, whatever becomes of them; by default it writes here and there."""

    def __init__(self, server, requests=None, pause_s=0.05):
        requests = requests or [["SET", f"talk:{n}", "x"] for n in range(20)]
        self.said, self.lines = b"".join(encoded(words) for words in requests), len(requests)
        self.server, self.pause_s, self.ended = server, pause_s, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.ended.wait(0.2):
            with contextlib.suppress(OSError), connect(self.server) as sock:
                while not self.ended.wait(self.pause_s):
                    exchange(sock, self.said, self.lines)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join(10)


class Deaf:
    """Clients that ask for `big`, and do not read: what they ask for stays where it is."""

    def __init__(self, server, count):
        self.server, self.count, self.socks, self.asked, self.ended = server, count, [], 0, threading.Event()
        self.thread = threading.Thread(target=self.insist, daemon=True)

    def connect(self):
        host, _, port = self.server["addr"].rpartition(":")
        sock = socket.socket()
        # Before it connects. What the kernels keep of what is sent to it is 4 MB all the same.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(5)
        sock.connect((host, int(port)))
        return sock

    def ask(self):
        """The next one asks, for a little more than the kernels keep."""
        self.socks[self.asked % len(self.socks)].send(encoded(["GET", "big"]) * 5)
        self.asked += 1

    def go_on(self):
        """From now on they ask again and again; who is closed comes again."""
        self.thread.start()

    def insist(self):
        while not self.ended.wait(0.2):
            with contextlib.suppress(OSError):
                while len(self.socks) < self.count:
                    self.socks.append(self.connect())
            for sock in list(self.socks):
                sock.setblocking(False)
                try:
                    sock.send(encoded(["GET", "big"]) * 10)
                except BlockingIOError:
                    pass
                except OSError:
                    self.socks.remove(sock)

    def __enter__(self):
        self.socks = [self.connect() for _ in range(self.count)]
        return self

    def __exit__(self, *_):
        self.ended.set()
        if self.thread.ident:
            self.thread.join(10)
        for sock in self.socks:
            sock.close()
