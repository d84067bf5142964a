"""The load: redis-benchmark, which ends with an error at the first error reply, so what it reports was answered."""

import csv
import subprocess
from dataclasses import dataclass

from programs import Unusable
from resp import Client, ServerError, key

CLIENTS = 50
VALUE_BYTES = 32


@dataclass(frozen=True)
class Load:
    """One kind of request and how many of them travel together."""

    command: str  # GET, SET or MGETxN
    pipeline: int

    def __str__(self):
        return f"{self.command} P{self.pipeline}"

    @property
    def keys_per_request(self):
        return int(self.command.partition("x")[2] or 1)

    def arguments(self):
        if self.command in ("GET", "SET"):
            return ["-t", self.command.lower()]
        return ["mget"] + ["key:__rand_int__"] * self.keys_per_request

    def check(self, port, host="127.0.0.1"):
        """One real exchange: a target that answers quickly and wrongly is not to be measured."""
        with Client(port, host) as client:
            if self.command == "SET":
                good = client("SET", key(0), b"x" * VALUE_BYTES) == b"OK"
            elif self.command == "GET":
                good = len(client("GET", key(0)) or b"") == VALUE_BYTES
            else:
                keys = [key(i) for i in range(self.keys_per_request)]
                good = [len(v or b"") for v in client("MGET", *keys)] == [VALUE_BYTES] * len(keys)
        if not good:
            raise ServerError(f"a wrong reply to {self.command}")

    def run(self, port, requests, keys, host="127.0.0.1", seconds=120, under=()):
        """Sends `requests`, waits for all replies; requests per second. `under` is a command that runs the load."""
        command = [*under, "redis-benchmark", "-h", host, "-p", port, "-c", CLIENTS, "-P", self.pipeline,
                   "-n", requests, "-r", keys, "-d", VALUE_BYTES, "--csv", *self.arguments()]
        command = [str(c) for c in command]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except FileNotFoundError:
            raise Unusable("redis-benchmark: not installed (Debian: redis-tools)") from None
        except subprocess.TimeoutExpired:
            raise ServerError(f"{requests} requests were not answered within {seconds} s") from None
        rows = list(csv.reader(done.stdout.splitlines()))
        if done.returncode or len(rows) < 2:
            raise ServerError((done.stderr or done.stdout).strip() or f"redis-benchmark: status {done.returncode}")
        return float(rows[-1][1])
