#!/usr/bin/env python3
"""The VIP for real: two machines (network namespaces behind a bridge) with the roles' own configurations of keepalived and
haproxy, a proxy each, and Redis beyond. The address moves when haproxy or keepalived of its holder dies, and clients that
connect anew are served.

    sudo tests/ops/vip.py            as root; where namespaces cannot be made it says so, and is content

`tests/ops/run` does this with whole machines, under load; this is what make test has time for.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tests/faults"))

from stage import TOKEN, Processes, Redis, ask, binary, until  # noqa: E402 (beside this file)

SWITCH, GATEWAY, VIP = "twvip-sw", "10.0.0.1", ("10.0.0.100", 6379)
# As the example inventory of three machines has them; the third one is away.
HOSTS = {"h1": "10.0.0.11", "h2": "10.0.0.12"}
# On a machine that is busy with everything else; alone it takes one to three seconds.
LIMIT_S = 30


def sh(*command, check=True, **more):
    return subprocess.run(command, check=check, capture_output=True, text=True, **more)


def within(host):
    return ("ip", "netns", "exec", f"twvip-{host}")


def build():
    sh("ip", "netns", "add", SWITCH)
    inside = ("ip", "-n", SWITCH)
    sh(*inside, "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0")
    sh(*inside, "addr", "add", f"{GATEWAY}/24", "dev", "br0")
    for link in ("br0", "lo"):
        sh(*inside, "link", "set", link, "up")
    for host, address in HOSTS.items():
        space = f"twvip-{host}"
        sh("ip", "netns", "add", space)
        sh("ip", "link", "add", "name", "eth0", "netns", space, "type", "veth", "peer", "name", host, "netns", SWITCH)
        sh(*inside, "link", "set", host, "master", "br0", "up")
        sh("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        for link in ("eth0", "lo"):
            sh("ip", "-n", space, "link", "set", link, "up")
        sh("ip", "-n", space, "route", "add", "default", "via", GATEWAY)
        sh(*within(host), "true")


def destroy():
    for space in (*(f"twvip-{host}" for host in HOSTS), SWITCH):
        sh("ip", "netns", "del", space, check=False)


def render(out):
    """What the roles would write onto the machines."""
    inventory = out / "inventory"
    (inventory / "group_vars/all").mkdir(parents=True)
    shutil.copy(ROOT / "ansible/inventories/three/hosts.yml", inventory)
    (inventory / "group_vars/all/vault.yml").write_text(sh(str(ROOT / "ansible/make-secrets")).stdout)
    line = [str(ROOT / "target/ansible/bin/ansible-playbook"), "-i", str(inventory / "hosts.yml"), str(HERE / "render.yml")]
    line += ["--limit", ",".join(HOSTS), "-e", f"out={out}", "-e", f"binaries={Path(binary('twemslot-proxy')).parent}"]
    # As many descriptors as a test may have anywhere.
    line += ["-e", "twemslot_tls=false", "-e", "haproxy_maxconn=500"]
    done = sh(*line, check=False, env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg")})
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}")
    for host in HOSTS:
        conf, script = out / host / "keepalived.conf", out / host / "check-haproxy"
        # Here the way to the script is not root's alone.
        text = conf.read_text().replace("/usr/local/lib/twemslot/check-haproxy", str(script)).replace("enable_script_security\n", "\n")
        conf.write_text(text)
        script.chmod(0o755)


class Machine:
    """A host with its proxy, haproxy and keepalived."""

    def __init__(self, processes, host):
        self.processes, self.host, self.dir = processes, host, processes.dir / host
        address = HOSTS[host]
        conf = processes.text(f"{host}.yml", f"listen: {address}:6382\nproxy_protocol: {address}:6382\nadmin: {address}:6381\n"
                              f"admin_token: {TOKEN}\nworkers: 1\ntopology_file: {self.dir}/topology.json\n")
        processes.start(f"proxy-{host}", [binary("twemslot-proxy"), "-c", conf], within(host))
        topology = {"epoch": 1, "slot_count": 64, "groups": [{"id": 1, "instances": [{"addr": f"{GATEWAY}:7001", "role": "primary"}]}],
                    "slots": [{"from": 0, "to": 63, "group": 1}]}
        call = urllib.request.Request(f"http://{address}:6381/api/v1/topology", json.dumps(topology).encode(), method="PUT",
                                      headers={"Authorization": f"Bearer {TOKEN}"})
        until(f"{host} takes the topology", lambda: urllib.request.urlopen(call, timeout=5).status == 200)
        self.start_haproxy()
        self.start_keepalived()

    def start_haproxy(self):
        self.haproxy = self.processes.start(f"haproxy-{self.host}", ["haproxy", "-db", "-f", str(self.dir / "haproxy.cfg")], within(self.host))

    def start_keepalived(self):
        pids = [word for kind in "prc" for word in (f"-{kind}", str(self.dir / f"{kind}.pid"))]
        line = ["keepalived", "--dont-fork", "--log-console", "--vrrp", "-f", str(self.dir / "keepalived.conf"), *pids]
        self.keepalived = self.processes.start(f"keepalived-{self.host}", line, within(self.host))

    def has_vip(self):
        return f" {VIP[0]}/" in sh("ip", "-n", f"twvip-{self.host}", "-4", "addr", "show", "dev", "eth0").stdout


def trial(processes):
    sh("chmod", "755", str(processes.dir))
    Redis(processes, (GATEWAY, 7001)).start()
    render(processes.dir)
    machines = {host: Machine(processes, host) for host in HOSTS}

    def holder():
        """Exactly one has it, and clients are served there."""
        having = [machine for machine in machines.values() if machine.has_vip()]
        return having[0] if len(having) == 1 and ask(VIP, "PING", limit=1.0) == "PONG" else None

    def moves(what, by, back):
        first = until("one machine has the VIP", holder, LIMIT_S)
        until("a write", lambda: ask(VIP, "SET", "held by", first.host) == "OK")
        start = time.monotonic()
        by(first)

        def other():
            now = holder()
            return now if now is not first else None
        second = until(f"the VIP moves when {what}", other, LIMIT_S)
        took = time.monotonic() - start
        if until("a read", lambda: ask(VIP, "GET", "held by") or "nothing") != first.host:
            raise SystemExit("clients do not find what they wrote")
        back(first)
        # Who comes back takes nothing from a holder that works, also when its keepalived has found it well (2 s).
        end = time.monotonic() + 6
        while time.monotonic() < end:
            if first.has_vip() or first.keepalived.poll() is not None or first.haproxy.poll() is not None:
                raise SystemExit(f"{first.host} took the VIP back from a holder that works, or did not start again")
            time.sleep(0.1)
        if until("one machine has the VIP", holder, LIMIT_S) is not second:
            raise SystemExit(f"{second.host} lost the VIP")
        print(f"{what}: the VIP moved from {first.host} to {second.host}, and clients were served {took:.1f} s later", flush=True)

    moves("haproxy is killed", lambda m: m.haproxy.kill(), Machine.start_haproxy)
    moves("keepalived is stopped", lambda m: (m.keepalived.terminate(), m.keepalived.wait(20)), Machine.start_keepalived)


def main():
    if sys.argv[1:] == ["--inside"]:
        with Processes() as processes:
            trial(processes)
        return
    try:
        destroy()
        build()
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        why = getattr(error, "stderr", "") or str(error)
        if not isinstance(error, FileNotFoundError):
            destroy()
        print(f"the VIP is not tried: no network namespaces can be made here, which takes root: {why.strip()}")
        return
    try:
        sys.exit(subprocess.run(["ip", "netns", "exec", SWITCH, sys.executable, __file__, "--inside"]).returncode)
    finally:
        destroy()


if __name__ == "__main__":
    main()
