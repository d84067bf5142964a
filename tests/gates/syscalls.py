"""System calls per request: by perf where its tracepoints may be read, else by strace, which slows and so batches."""

import contextlib
import os
import signal
import subprocess
import tempfile
from pathlib import Path

from programs import Unusable

FEW, MANY = 5000, 55000
EVENTS = {"all": "raw_syscalls:sys_enter", "epoll_ctl": "syscalls:sys_enter_epoll_ctl"}


@contextlib.contextmanager
def one_processor(pids):
    """With it: these processes, and what this one starts, share one processor.

    How many requests a wake-up finds depends on who runs at the same time. On several processors that is chance: the
    scheduler moves the load, the proxy and the instances about, and the same proxy takes 2.3 or 2.9 calls. On one each
    runs when the others wait for it.
    """
    all_of_them = os.sched_getaffinity(0)
    mine = {min(all_of_them)}
    for pid in [0, *pids]:
        os.sched_setaffinity(pid, mine)
    try:
        yield
    finally:
        for pid in [0, *pids]:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(pid, all_of_them)


def per_request(pid, load, port, keys):
    """{"all": n, "epoll_ctl": n} of one process, per request; connecting does not count."""
    count = _by_perf if _perf_works() else _by_strace
    load.check(port)
    load.run(port, FEW, keys)
    few = count(pid, load, port, FEW, keys)
    many = count(pid, load, port, MANY, keys)
    return {name: (many[name] - few[name]) / (MANY - FEW) for name in EVENTS}


def _perf_works():
    trial = ["perf", "stat", "-x,", "-e", ",".join(EVENTS.values()), "true"]
    try:
        return subprocess.run(trial, capture_output=True, text=True).returncode == 0
    except FileNotFoundError:
        return False


def _by_perf(pid, load, port, requests, keys):
    with tempfile.NamedTemporaryFile(prefix="twemslot-perf-") as out:
        load.run(port, requests, keys, under=["perf", "stat", "-x,", "-e", ",".join(EVENTS.values()), "-p", pid,
                                              "-o", out.name, "--"])
        rows = [line.split(",") for line in Path(out.name).read_text().splitlines() if "sys_enter" in line]
    counted = {row[2]: int(row[0]) for row in rows}
    return {name: counted[event] for name, event in EVENTS.items()}


def _by_strace(pid, load, port, requests, keys):
    with tempfile.NamedTemporaryFile(prefix="twemslot-strace-") as out:
        command = ["strace", "-c", "-f", "-o", out.name, "-p", str(pid)]
        try:
            strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        except FileNotFoundError:
            raise Unusable("perf cannot count here and strace is not installed") from None
        said = strace.stderr.readline()  # "Process N attached", or why not
        if "attached" not in said:
            raise Unusable(f"perf cannot count here, nor can strace: {said.strip()}: run as root")
        load.run(port, requests, keys)
        strace.send_signal(signal.SIGINT)
        strace.communicate(timeout=20)
        rows = [line.split() for line in Path(out.name).read_text().splitlines()]
    # % time, seconds, usecs/call, calls, [errors], name; a line of sums, named total, comes last.
    counted = {row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit()}
    return {"all": counted.get("total", 0), "epoll_ctl": counted.get("epoll_ctl", 0)}
