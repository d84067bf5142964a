"""What the trials start: a group of Redis servers, the control plane and proxies; and clients that note what they are told."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

TOKEN = "a-token-of-the-trials"
ROOT = Path(__file__).resolve().parents[2]


def binary(name):
    """The newest that was built."""
    built = [path for path in (ROOT / "target" / profile / name for profile in ("release", "debug")) if path.exists()]
    if not built:
        raise SystemExit(f"{name} is not built: make partitions builds it")
    return str(max(built, key=lambda path: path.stat().st_mtime))


def until(what, check, limit=30.0):
    """The first true answer of `check`, which may fail with an error meanwhile."""
    end, last = time.monotonic() + limit, None
    while time.monotonic() < end:
        try:
            last = check()
            if last:
                return last
        except (OSError, ValueError, LookupError, TypeError) as error:
            last = error
        time.sleep(0.02)
    raise SystemExit(f"{what}: not within {limit} s: {last}")


class Processes:
    """All that was started, in one directory of its own. Ends what it started, and nothing else."""

    def __init__(self):
        self.dir = Path(tempfile.mkdtemp(prefix="twemslot-faults-"))
        self.all = []

    def start(self, name, command, within=()):
        log = open(self.dir / f"{name}.log", "ab")
        process = subprocess.Popen([*within, *command], stdout=log, stderr=log, cwd=self.dir, start_new_session=True)
        self.all.append(process)
        return process

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error:
            for log in sorted(self.dir.glob("*.log")):
                print(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-8:], sep="\n", file=sys.stderr)
        for process in self.all:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGCONT)
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def text(self, name, text):
        path = self.dir / name
        path.write_text(text)
        return str(path)


class Redis:
    """One server, at `addr` (ip, port)."""

    def __init__(self, processes, addr, within=(), more=()):
        self.processes, self.addr, self.within, self.more = processes, addr, within, more
        self.name = f"redis-{addr[0]}-{addr[1]}"

    def start(self, primary=None):
        command = ["redis-server", "--bind", self.addr[0], "--port", str(self.addr[1]), "--save", "",
                   "--protected-mode", "no", "--repl-diskless-sync-delay", "0", "--dir", str(self.processes.dir)]
        if primary:
            command += ["--replicaof", primary[0], str(primary[1])]
        self.process = self.processes.start(self.name, [*command, *self.more], self.within)
        until(f"{self.name} answers", lambda: ask(self.addr, "PING") == "PONG")
        return self

    def pid(self):
        """Of the server itself: what `ip netns exec` started is the same process."""
        return self.process.pid

    def signal(self, number):
        os.kill(self.pid(), number)

    def info(self):
        lines = ask(self.addr, "INFO", "replication").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)


class Twemslot:
    """Three members of the control plane and the proxies, over servers that are there. An address of each: (ip, port)."""

    def __init__(self, processes, members, proxies, within=lambda ip: ()):
        self.processes, self.members, self.proxies = processes, members, proxies
        self.member_processes, self.proxy_processes = {}, {}
        sha = hashlib.sha256(TOKEN.encode()).hexdigest()
        listed = "".join(f"  - {{id: {n}, name: c{n}, addr: {ip}:{port}}}\n" for n, (ip, port) in enumerate(members, 1))
        for n, (ip, port) in enumerate(members, 1):
            (processes.dir / f"c{n}").mkdir()
            conf = processes.text(f"c{n}.yml", f"name: c{n}\nlisten: {ip}:{port}\ndata_dir: {processes.dir}/c{n}\n"
                                  f"peer_token: {TOKEN}-peers\nproxy_token: {TOKEN}\nmembers:\n{listed}"
                                  f"tokens:\n  - {{name: ops, role: admin, sha256: {sha}}}\n")
            command = [binary("twemslot-configsvr"), "-c", conf]
            self.member_processes[ip, port] = processes.start(f"c{n}", command, within(ip))
        for n, (ip, port) in enumerate(proxies, 1):
            listed = ", ".join(f"{ip}:{port}" for ip, port in members)
            (processes.dir / f"p{n}").mkdir()
            conf = processes.text(f"p{n}.yml", f"listen: {ip}:{port}\nadmin: {ip}:{port + 1}\nadmin_token: {TOKEN}\n"
                                  f"workers: 1\ntopology_file: {processes.dir}/p{n}/topology.json\n"
                                  f"control:\n  id: p{n}\n  token: {TOKEN}\n  configsvrs: [{listed}]\n")
            command = [binary("twemslot-proxy"), "-c", conf]
            self.proxy_processes[ip, port] = processes.start(f"p{n}", command, within(ip))

    def call(self, path, body=None, member=None, limit=5.0):
        ip, port = member or self.members[0]
        data = None if body is None else json.dumps(body).encode()
        call = urllib.request.Request(f"http://{ip}:{port}{path}", data, method="POST" if data else "GET")
        call.add_header("Authorization", f"Bearer {TOKEN}")
        call.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(call, timeout=limit) as answer:
            return json.load(answer)

    def found(self, primary, replicas):
        """The cluster: one group that owns every slot."""
        named = [{"addr": f"{ip}:{port}", "role": "replica"} for ip, port in replicas]
        group = {"id": 1, "instances": [{"addr": f"{primary[0]}:{primary[1]}", "role": "primary"}, *named]}
        topology = {"epoch": 1, "slot_count": 64, "groups": [group], "slots": [{"from": 0, "to": 63, "group": 1}]}
        body = {"topology": topology, "replace": False, "probe": True}
        until("the cluster is made", lambda: self.call("/api/v1/import", body))
        until("the primary is known", lambda: self.call("/api/v1/guards")[0]["primary"])
        for proxy in self.proxies:
            until(f"{proxy} serves", lambda at=proxy: ask(at, "SET", "a-first-key", "1") == "OK")

    def failovers(self, member=None):
        return self.call("/api/v1/failovers", member=member)

    def primary(self, member=None):
        ip, port = self.call("/api/v1/groups", member=member)[0]["primary"].split(":")
        return ip, int(port)

    def leader(self, among=None):
        def leads(member):
            try:
                return self.call("/api/v1/cluster", member=member, limit=1.0).get("leading")
            except OSError:
                return False
        return until("a leader", lambda: next((m for m in among or self.members if leads(m)), None))


class Connection:
    """RESP2, blocking, one request at a time."""

    def __init__(self, addr, limit):
        self.socket = socket.create_connection(addr, timeout=limit)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def ask(self, *words):
        words = [str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
        return self.reply()

    def reply(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise OSError("the connection was closed")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise ValueError(rest.decode())
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2].decode(errors="replace")
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest.decode()

    def close(self):
        self.file.close()
        self.socket.close()


def ask(addr, *words, limit=2.0):
    connection = Connection(addr, limit)
    try:
        return connection.ask(*words)
    finally:
        connection.close()


class Load:
    """Clients at full load through each of the proxies; the checker's verdict on each at the end."""

    CLIENTS = 24

    def __init__(self, processes, proxies):
        addrs = [f"{ip}:{port}" for ip, port in proxies]
        command = [binary("examples/history-load"), str(self.CLIENTS), *addrs]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.all.append(self.process)

    def say(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def end(self):
        """By the proxy's ip."""
        out, _ = self.process.communicate("end\n", timeout=60)
        verdicts = [json.loads(line) for line in out.splitlines()]
        if self.process.returncode or not verdicts:
            raise SystemExit("the load has failed; what it said is above")
        return {verdict["addr"].split(":")[0]: verdict for verdict in verdicts}
