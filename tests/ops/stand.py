"""A cluster with its Prometheus, for tests: a playground of real servers, load on it, and what watches it."""

import atexit
import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
GRAFANA = ROOT / "grafana"


class Failed(Exception):
    """What did not come, or did not hold."""


def until(what, look, seconds=60.0):
    """Asks `look` again until it gives something that is true; returns that. What it raises last is told at the end."""
    end, last = time.monotonic() + seconds, "nothing"
    while time.monotonic() < end:
        try:
            found = look()
            if found:
                return found
        except (OSError, ValueError, Failed) as error:
            last = error
        time.sleep(0.1)
    raise Failed(f"{what}: not within {seconds:.0f} s ({last})")


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def binary(name):
    named = os.environ.get("TWEMSLOT_BIN")
    places = [Path(named)] if named else [ROOT / "target" / kind for kind in ("release", "debug")]
    found = [place / name for place in places if (place / name).exists()]
    if not found:
        raise Failed(f"{name} is not built: cargo build --workspace --bins (or TWEMSLOT_BIN=DIRECTORY)")
    return max(found, key=lambda path: path.stat().st_mtime)


class Site:
    """Ends with the program, whatever happens."""

    def __init__(self, base_port="auto", *options, proxy_settings=""):
        """`options`: of `playground up`; what is not said is small."""
        self.dir = Path(tempfile.mkdtemp(prefix="twemslot-ops-"))
        self.started, self.stopping = [], False
        atexit.register(self.stop)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(130))
        self.ctl_binary = binary("twemslotctl")
        conf = self.dir / "redis-extra.conf"
        conf.write_text("maxmemory 256mb\n")  # so that there is something to be near
        ours = self.dir / "proxy-extra.yml"
        ours.write_text(proxy_settings)
        more = ["--proxy-conf", str(ours)] if proxy_settings else []
        self.ctl("playground", "up", "--detach", "--base-port", str(base_port), "--proxies", "2",
                 "--redis-conf", str(conf), *(options or ("--configsvrs", "1", "--workers", "2")), *more)
        servers = json.loads((self.dir / "state" / "playground.json").read_text())["processes"]
        self.servers = {s["name"]: s for s in servers}
        self.proxies = [s for s in servers if s["kind"] == "proxy"]
        self.members = [s for s in servers if s["kind"] == "configsvr"]
        self.etcd = [s for s in servers if s["kind"] == "etcd"]

    def ctl(self, *words, check=True):
        done = subprocess.run([self.ctl_binary, "--state-dir", str(self.dir / "state"), *words], capture_output=True,
                              text=True, timeout=180)
        if check and done.returncode:
            raise Failed(f"twemslotctl {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self, name, *command):
        """A program of the test's; its output goes to a file."""
        log = open(self.dir / f"{name}.log", "w")
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.dir,
                                   start_new_session=True)
        self.started.append(process)
        return process

    def stop(self):
        if self.stopping:
            return
        self.stopping = True
        for process in reversed(self.started):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # with what it has started itself
        for process in self.started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        with contextlib.suppress(Failed, AttributeError, subprocess.TimeoutExpired):
            self.ctl("playground", "down", check=False)

    # What happens to servers.

    def kill(self, server):
        """As a machine that loses power; returns how to start it again."""
        pid = server["pid"]
        words = [w.decode() for w in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") if w]
        program, where = os.readlink(f"/proc/{pid}/exe"), os.readlink(f"/proc/{pid}/cwd")
        os.kill(pid, signal.SIGKILL)

        def again():
            log = open(self.dir / f"{server['name']}-again.log", "w")
            args = words[1:]
            nonlocal program
            if server["kind"] == "redis":  # its title is not its command line, and its file is that of redis-check-rdb
                program = "redis-server"
                args = [str(self.dir / "state" / "redis" / server["addr"].rpartition(":")[2] / "redis.conf")]
            process = subprocess.Popen([program, *args], cwd=where, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                       start_new_session=True)
            self.started.append(process)
            server["pid"] = process.pid
            return process

        return again

    def worker(self, proxy):
        """The process of its only, or one of its workers."""
        children = Path(f"/proc/{proxy['pid']}/task/{proxy['pid']}/children").read_text().split()
        if not children:
            raise Failed(f"{proxy['name']} has no worker")
        return int(children[0])

    def instances(self, group):
        """Its primary, and its replicas."""
        groups = json.loads(self.ctl("--json", "groups", "list"))
        of = next(g for g in groups if g["id"] == group)
        by_addr = {s["addr"]: s for s in self.servers.values() if s["kind"] == "redis"}
        return [by_addr[addr] for addr in (of["primary"], *of["replicas"])]

    def primary(self, group):
        return self.instances(group)[0]

    # Load.

    def redis_cli(self, *words, server=None):
        """Asks a server, or the first proxy."""
        host, _, port = (server or self.proxies[0])["addr"].rpartition(":")
        done = subprocess.run(["redis-cli", "-h", host, "-p", port, *words], capture_output=True, text=True, timeout=20)
        return done.stdout.strip()

    def load(self):
        """Requests without end, of several kinds, some of them wrong."""
        for n, proxy in enumerate(self.proxies):
            host, _, port = proxy["addr"].rpartition(":")
            script = "\n".join([
                "import subprocess, time",
                "while True:",
                f"    subprocess.run(['redis-benchmark', '-h', '{host}', '-p', '{port}', '-q', '-c', '8', '-n', '3000',",
                "                    '-r', '1000', '-d', '100', '-t', 'set,get,incr,lpush,mset'])",
                f"    for words in (['NOSUCH'], ['GET'], ['MSETNX', 'a', '1', 'b', '2'], ['SET', 'big', 'x' * 100_000],",
                "                  ['GET', 'big'], ['BLPOP', 'none', '0.2'], ['LPUSH', 'string', 'x'], ['GET', 'hot']):",
                f"        subprocess.run(['redis-cli', '-h', '{host}', '-p', '{port}', *words], capture_output=True)",
                "    time.sleep(0.2)",
            ])
            self.start(f"load-{n}", sys.executable, "-c", script)

    # What watches.

    def prometheus(self, alertmanager=None, rules=None, **more):
        """Its own port; the shipped configuration with this site's addresses, every second. `more`: of other jobs."""
        port = free_port()
        text = (GRAFANA / "prometheus.yml").read_text()
        proxies = json.dumps([p["admin_addr"] for p in self.proxies])
        members = json.dumps([m["addr"] for m in self.members])
        manager = json.dumps([f"127.0.0.1:{alertmanager}"] if alertmanager else [])
        for shipped, ours in (('["127.0.0.1:6381"]', proxies), ('["127.0.0.1:6390"]', members),
                              ('["127.0.0.1:9093"]', manager), ("alerts/*.yml", str(rules or GRAFANA / "alerts/*.yml")),
                              ("scrape_interval: 5s", "scrape_interval: 1s"),
                              ("evaluation_interval: 5s", "evaluation_interval: 1s")):
            if shipped not in text:
                raise Failed(f"grafana/prometheus.yml has no {shipped}")
            text = text.replace(shipped, ours)
        for job, targets in more.items():
            shipped = f"job_name: {job}\n    static_configs:\n      - targets: []"
            if shipped not in text:
                raise Failed(f"grafana/prometheus.yml has no job {job} without targets")
            text = text.replace(shipped, shipped.replace("[]", json.dumps(targets)))
        conf = self.dir / "prometheus.yml"
        conf.write_text(text)
        self.start("prometheus", "prometheus", f"--config.file={conf}", f"--storage.tsdb.path={self.dir}/tsdb",
                   f"--web.listen-address=127.0.0.1:{port}")
        self.url = f"http://127.0.0.1:{port}"
        self.scraped = len(self.proxies) + len(self.members) + sum(len(targets) for targets in more.values())
        until("Prometheus", lambda: get(f"{self.url}/-/ready"))

        def scraped():
            targets = json.loads(get(f"{self.url}/api/v1/targets"))["data"]["activeTargets"]
            bad = [f"{t['scrapeUrl']}: {t['lastError']}" for t in targets if t["health"] != "up"]
            if bad:
                raise Failed("; ".join(bad))
            return len(targets) == self.scraped

        until("a scrape of every server", scraped)

    def query(self, expression):
        """The series that it gives now."""
        url = f"{self.url}/api/v1/query?query={urllib.parse.quote(expression)}"
        try:
            return json.loads(get(url))["data"]["result"]
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{expression}\n{error.read().decode()}") from error


class Webhook:
    """Whom the Alertmanager tells."""

    def __init__(self):
        heard = self.heard = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in body["alerts"]:
                    heard.append((alert["status"], alert["labels"], alert["annotations"]))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def told(self, status, name, **labels):
        """What it was told of this alert, if it was."""
        wanted = {"alertname": name, **labels}
        for told, of, texts in list(self.heard):
            if told == status and wanted.items() <= of.items():
                return texts
        return None
