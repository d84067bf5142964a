"""Starts what is measured, on loopback, and stops it whatever happens.

A `Stage` owns a scratch directory and the programs started in it. Ports are tried upwards from TWEMSLOT_BENCH_PORT
(21600), below the range from which the kernel takes the ports of outgoing connections.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from resp import Client, ServerError

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 20
SLOTS = 1024


class Unusable(Exception):
    """The measurement cannot be made; the text says what to do."""


def wait_ready(name, port, alive, seconds=READY_SECONDS, host="127.0.0.1"):
    """Until GETs are answered: a refusal may only mean that instances are not connected yet."""
    deadline, last = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        if not alive():
            raise Unusable(f"{name} has ended")
        try:
            with Client(port, host, seconds=5) as client:
                for i in range(32):
                    client("GET", f"ready:{i}")
                return
        except (OSError, ServerError) as error:
            last = error
            time.sleep(0.05)
    raise Unusable(f"{name} at {host}:{port} is not ready after {seconds} s: {last}")


class Program:
    """A started program that speaks Redis at `port`."""

    def __init__(self, name, port, popen, log):
        self.name, self.port, self.pid, self.popen, self.log = name, port, popen.pid, popen, log

    def wait_ready(self, seconds=READY_SECONDS):
        try:
            wait_ready(self.name, self.port, lambda: self.popen.poll() is None, seconds)
        except Unusable as unusable:
            raise Unusable(f"{unusable}\n{self.tail()}") from None
        return self

    def tail(self):
        return "".join(self.log.read_text(errors="replace").splitlines(keepends=True)[-15:])

    def stop(self):
        for ask in (signal.SIGTERM, signal.SIGKILL):
            if self.popen.poll() is None:
                self.popen.send_signal(ask)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.popen.wait(10)


class Stage:
    """With it: a scratch directory, and programs that end with it. `keep` names a directory to leave behind."""

    def __init__(self, keep=None):
        self.keep = keep
        self.programs = []
        self.next_port = int(os.environ.get("TWEMSLOT_BENCH_PORT", "21600"))

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by a signal"))
        if self.keep:
            Path(self.keep).mkdir(parents=True, exist_ok=True)
        self.dir = Path(self.keep or tempfile.mkdtemp(prefix="twemslot-bench-")).resolve()
        return self

    def __exit__(self, *_):
        for program in reversed(self.programs):
            program.stop()
        if not self.keep:
            shutil.rmtree(self.dir, ignore_errors=True)

    def port(self):
        """A port nobody listens at."""
        while self.next_port < 32768:
            port, self.next_port = self.next_port, self.next_port + 1
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with contextlib.suppress(OSError):
                    probe.bind(("127.0.0.1", port))
                    return port
        raise Unusable("no free port below 32768: set TWEMSLOT_BENCH_PORT to where some are")

    def write(self, name, text):
        path = self.dir / name
        path.write_text(text)
        return path

    def start(self, name, port, command):
        """Starts a program without waiting for it."""
        log = self.dir / f"{name}.log"
        with log.open("wb") as out:
            try:
                popen = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=out,
                                         stderr=subprocess.STDOUT, cwd=self.dir, preexec_fn=_die_with_parent)
            except FileNotFoundError as missing:
                raise Unusable(f"{missing.filename}: not installed (README.md lists the Debian packages)") from None
        program = Program(name, port, popen, log)
        self.programs.append(program)
        return program

    def redis(self, name, port=None):
        port = port or self.port()
        directory = self.dir / name
        directory.mkdir(exist_ok=True)
        return self.start(name, port, ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "",
                                       "--appendonly", "no", "--maxclients", 10000, "--dir", directory]).wait_ready()

    def proxy(self, redises, name="ours", wrapper=(), single_process=False, more=""):
        """Our proxy with one worker, over one group to each of `redises`; `wrapper` is a command that runs it, `more`
        goes to the end of its configuration."""
        port, admin = self.port(), self.port()
        topology = self.write(f"{name}.topology.json", json.dumps(topology_of(redises)))
        path = self.write(f"{name}.yml", proxy_config(port, admin, topology) + more)
        command = [*wrapper, proxy_binary(), "--config", path, "--foreground"]
        return self.start(name, port, command + (["--single-process"] if single_process else []))

    def haproxy(self, redis):
        port = self.port()
        path = self.write("haproxy.cfg", f"""global
  nbthread 1
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen redis
  bind 127.0.0.1:{port}
  server a 127.0.0.1:{redis.port}
""")
        return self.start("haproxy", port, [_in_sbin("haproxy"), "-db", "-f", path]).wait_ready()

    def nutcracker(self, redises):
        """Debian's twemproxy. At its default log level it asks for the peer's name on every request: hence -v 4."""
        port, stats = self.port(), self.port()
        servers = "".join(f"   - 127.0.0.1:{r.port}:1 {r.name}\n" for r in redises)
        path = self.write("nutcracker.yml", f"""pool:
  listen: 127.0.0.1:{port}
  redis: true
  hash: fnv1a_64
  distribution: ketama
  auto_eject_hosts: false
  preconnect: true
  servers:
{servers}""")
        command = [_in_sbin("nutcracker"), "-v", 4, "-c", path, "-a", "127.0.0.1", "-s", stats,
                   "-p", self.dir / "nutcracker.pid"]
        return self.start("twemproxy", port, command).wait_ready()

    def floor(self, value_bytes):
        """What serving the clients alone costs: see floor.rs."""
        port = self.port()
        program = _built("examples/floor", "--package", "tests", "--example", "floor")
        return self.start("floor", port, [program, f"127.0.0.1:{port}", value_bytes]).wait_ready()


def topology_of(redises):
    """SLOTS slots in equal ranges, a group to each server."""
    step = SLOTS // len(redises)
    groups = [{"id": i + 1, "instances": [{"addr": f"127.0.0.1:{r.port}", "role": "primary"}]}
              for i, r in enumerate(redises)]
    slots = [{"from": i * step, "to": SLOTS - 1 if i + 1 == len(redises) else (i + 1) * step - 1, "group": i + 1}
             for i in range(len(redises))]
    return {"epoch": 1, "slot_count": SLOTS, "groups": groups, "slots": slots}


def proxy_config(port, admin, topology):
    """Defaults, but for room for the gate that opens 10,000 connections besides others."""
    return f"""listen: 127.0.0.1:{port}
admin: 127.0.0.1:{admin}
workers: 1
clients_max: 12000
topology_file: {topology}
"""


def proxy_binary():
    """TWEMSLOT_PROXY, else the release build of this tree, made now."""
    return os.environ.get("TWEMSLOT_PROXY") or _built("twemslot-proxy", "--workspace")


def _built(name, *what):
    """The path of a release build of this tree, made now."""
    build = ["cargo", "build", "--release", "--quiet", *what]
    if subprocess.run(build, cwd=ROOT).returncode:
        raise Unusable(f"{' '.join(build)} failed")
    target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    return Path(target) / "release" / name


def _in_sbin(name):
    """Debian puts servers where a user's PATH may not reach."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin") or name


def _die_with_parent():
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
