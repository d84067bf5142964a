"""Clients that write through one address until they are told to stop, and say what they noticed.

    load.py HOST PORT CLIENTS [CA]     CA: they speak TLS, and believe what it has signed. It reads commands from standard
                                       input, a line each, and answers each with a line of JSON:
        mark     what was noticed since the last mark: writes, errors, refused connections, the longest gap, and acknowledged
                 writes that were gone when their client had a new connection and looked
        stop     the same, and whether every client's last acknowledged write is still there

A client keeps its connection until that breaks; one more makes a new one for each PING. A gap is the time between two
writes of one client that were done.
"""

import json
import socket
import ssl
import sys
import threading
import time

TIMEOUT_S = 3
RETRY_S = 0.02
PAUSE_S = 0.005
TLS = ssl.create_default_context(cafile=sys.argv[4]) if len(sys.argv) > 4 else None


class Client(threading.Thread):
    """One connection at a time, one write at a time."""

    def __init__(self, address, number, fresh=False):
        super().__init__(daemon=True)
        self.fresh = fresh
        self.address, self.key = address, f"ops:{number}"
        self.lock, self.ended = threading.Lock(), False
        self.acknowledged, self.last = 0, time.monotonic()
        self.looks = False
        self.forget()

    def forget(self):
        self.writes, self.errors, self.refused, self.gap, self.said = 0, 0, 0, 0.0, []
        self.lost = []

    def run(self):
        sock = None
        while not self.ended:
            try:
                if sock is None:
                    sock = connect(self.address)
            except OSError:
                with self.lock:
                    self.refused += 1
                time.sleep(RETRY_S)
                continue
            try:
                if self.looks:
                    self.look(sock)
                self.write(sock)
                time.sleep(PAUSE_S)
                if self.fresh:
                    sock.close()
                    sock = None
            except (OSError, ValueError) as error:
                with self.lock:
                    self.errors += 1
                    self.said = [*self.said, str(error)][:3]
                sock.close()
                sock, self.looks = None, not self.fresh
                time.sleep(RETRY_S)

    def look(self, sock):
        """After a break: is what was acknowledged there?"""
        value = ask(sock, "GET", self.key)
        if value.startswith("-"):
            raise ValueError(value)
        self.looks = False
        if value == "$-1" or int(value) < self.acknowledged:
            with self.lock:
                self.lost.append([self.key, self.acknowledged, value])

    def write(self, sock):
        value = self.acknowledged + 1
        # Who looks whether the address answers must not wait for a failover.
        words = ["PING"] if self.fresh else ["SET", self.key, str(value)]
        answer = ask(sock, *words)
        if answer not in ("+OK", "+PONG"):
            raise ValueError(answer)
        with self.lock:
            now = time.monotonic()
            self.acknowledged, self.writes = value, self.writes + 1
            self.gap, self.last = max(self.gap, now - self.last), now

    def report(self):
        with self.lock:
            # A write that is not done yet is a gap, too.
            said = (self.writes, self.errors, self.refused, max(self.gap, time.monotonic() - self.last), self.said, self.lost)
            self.forget()
            return said


def connect(address):
    sock = socket.create_connection(address, TIMEOUT_S)
    return TLS.wrap_socket(sock, server_hostname=address[0]) if TLS else sock


def ask(sock, *words):
    """One request, and its answer as a line; of a value the value."""
    sock.sendall(b"".join([f"*{len(words)}\r\n".encode(), *(f"${len(w)}\r\n{w}\r\n".encode() for w in words)]))
    line = read_line(sock)
    return read_line(sock) if line.startswith("$") and line != "$-1" else line


def read_line(sock):
    line = b""
    while not line.endswith(b"\r\n"):
        byte = sock.recv(1)
        if not byte:
            raise ConnectionError("closed by the server")
        line += byte
    return line[:-2].decode()


def sum_up(clients):
    reports = [c.report() for c in clients]
    return {
        "writes": sum(r[0] for r in reports),
        "errors": sum(r[1] for r in reports),
        "clients_with_errors": sum(r[1] > 0 for r in reports),
        "refused": sum(r[2] for r in reports),
        "longest_gap_s": round(max(r[3] for r in reports), 3),
        "new_connections_gap_s": round(reports[-1][3], 3),
        "said": sorted({word for r in reports for word in r[4]})[:5],
        "lost": [found for r in reports for found in r[5]],
    }


def lost(address, clients):
    """Clients whose last acknowledged write is not there."""
    found = []
    with connect(address) as sock:
        for client in (c for c in clients if not c.fresh):
            value = ask(sock, "GET", client.key)
            if value.startswith(("$-1", "-")) or int(value) < client.acknowledged:
                found.append([client.key, client.acknowledged, value])
    return found


def main():
    address, count = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
    clients = [Client(address, n) for n in range(count)] + [Client(address, "new", fresh=True)]
    for client in clients:
        client.start()
    for line in sys.stdin:
        report = sum_up(clients)
        if line.strip() == "stop":
            for client in clients:
                client.ended = True
            for client in clients:
                client.join(TIMEOUT_S * 2)
            report["lost"] += lost(address, clients)
        print(json.dumps(report), flush=True)
        if line.strip() == "stop":
            return


if __name__ == "__main__":
    main()
