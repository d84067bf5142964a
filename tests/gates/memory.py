"""Memory of the worker: what an idle connection holds, and what stays after a burst of large values."""

import contextlib
import resource
import threading
import time

from cost import resident
from programs import Unusable
from resp import Client, ServerError, encode

CONNECTIONS = 10_000
BURST_CLIENTS, BURST_BYTES = 20, 16 << 20
SETTLE_SECONDS = 20


def per_idle_connection(pid, port):
    """Bytes the worker holds for one more connection that sent one GET and got its reply."""
    _raise_open_files(CONNECTIONS + 200)
    with _connections(port, 100):
        pass  # what the first clients make it allocate once is not the price of a client
    before = _settled(pid)
    with _connections(port, CONNECTIONS):
        return (_settled(pid) - before) / CONNECTIONS


@contextlib.contextmanager
def _connections(port, n):
    with contextlib.ExitStack() as open_ones:
        get = encode("GET", "idle")
        for _ in range(n):
            client = open_ones.enter_context(Client(port))
            client.send(get)
            client.reply()
        yield


def kept_after_burst(pid, port):
    """Bytes the worker holds more than before, after clients wrote and read large values all at once.

    Memory may be given back a little later: the least figure within SETTLE_SECONDS counts. Also returns the peak.
    """
    before, peak = _settled(pid), 0
    errors = []
    clients = [threading.Thread(target=_burst, args=(port, i, errors)) for i in range(BURST_CLIENTS)]
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients):
        peak = max(peak, resident(pid))
        time.sleep(0.02)
    if errors:
        raise ServerError(f"the burst of large values: {errors[0]}")
    deadline = time.monotonic() + SETTLE_SECONDS
    least = resident(pid)
    while time.monotonic() < deadline and least > before + (1 << 20):
        time.sleep(0.25)
        least = min(least, resident(pid))
    return least - before, peak - before


def _burst(port, number, errors):
    value = bytes([65 + number]) * BURST_BYTES
    try:
        with Client(port, seconds=60) as client:
            if client("SET", f"burst:{number}", value) != b"OK":
                raise ServerError("SET was not answered with OK")
            if client("GET", f"burst:{number}") != value:
                raise ServerError("GET gave another value than was SET")
            client("DEL", f"burst:{number}")
    except (OSError, ServerError) as error:
        errors.append(error)


def _settled(pid):
    """Resident bytes once they stay the same for three seconds: freed memory is given back after one of quiet."""
    deadline, seen = time.monotonic() + SETTLE_SECONDS, []
    while time.monotonic() < deadline:
        seen.append(resident(pid))
        if len(seen) > 12 and len(set(seen[-13:])) == 1:
            break
        time.sleep(0.25)
    return seen[-1]


def _raise_open_files(n):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < n:
        raise Unusable(f"{hard} open files are allowed, {n} are needed: ulimit -Hn {n}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (n, hard))
