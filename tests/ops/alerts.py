#!/usr/bin/env python3
"""Every alert of the shipped rules fires and ends: its cause is brought about on a real cluster, a real Prometheus sees
it, a real Alertmanager tells a webhook, with what to do about it, and tells it again when it is over.

    tests/ops/alerts.py               every alert (make alerts-test)
    tests/ops/alerts.py --few         those whose cause is most feared, as make test has them

The rules are the shipped ones, but in a hurry: see hurried().
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from base64 import b64decode, b64encode

from stand import GRAFANA, ROOT, Failed, Site, Webhook, free_port, get, until
from talkers import Deaf, Talker, pipeline

ALERTMANAGER = """
route:
  receiver: hook
  group_by: [alertname, group, instance]
  group_wait: 0s
  group_interval: 1s
receivers:
  - name: hook
    webhook_configs:
      - url: http://127.0.0.1:{port}/
        send_resolved: true
"""
# Little memory, to be near its end.
PROXY = """
worker_memory_max: 16mb
client_output_max: 8mb
hold_worker_bytes_max: 8mb
request_kept_max: 8mb
request_timeout_ms: 500
"""
# As the role has it, and what the rules need of that.
HAPROXY = """
defaults
    timeout connect 1s
    timeout client 1m
    timeout server 1m
frontend clients
    bind 127.0.0.1:{clients}
    default_backend proxies
backend proxies
    option httpchk
    http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host twemslot
    http-check expect status 200
    default-server inter 500 fall 2 rise 2
{servers}
frontend admin
    mode http
    bind 127.0.0.1:{admin}
    http-request use-service prometheus-exporter if {{ path /metrics }}
"""
HAPROXY_WORDS = ["backend proxies", "uri /readyz", "use-service prometheus-exporter if { path /metrics }"]
CERTIFICATES = ROOT / "ansible/roles/prometheus/files/twemslot-certificates"
STORE_KEY = "/redis-cluster/group-instances/1"
# What is said of five minutes, said of seconds; nine tenths of a processor and 64 MiB are much to ask of a machine
# that tests.
HURRY = [("[10m]", "[20s]"), ("[5m]", "[10s]"), ("[1m]", "[10s]"), ("< 300", "< 20"), ("< 3600", "< 20"),
         ("> 64 * 1024 * 1024", "> 64 * 1024"), ("worker_cpu_seconds_total[10s]) > 0.9", "worker_cpu_seconds_total[10s]) > 0.1")]


def hurried(text):
    text, waits = re.subn(r"(?m)^(\s+for): (\w+)$", lambda m: f"{m[1]}: {'5s' if m[2] == '5m' else '1s'}", text)
    for slow, quick in HURRY:
        if slow not in text or not waits:
            raise Failed(f"the rules have no {slow} any more: see HURRY")
        text = text.replace(slow, quick)
    return text


class Stage:
    """A cluster that things happen to, and who is told of them."""

    def __init__(self, port):
        text = (GRAFANA / "alerts" / "twemslot.yml").read_text()
        self.names = re.findall(r"(?m)^\s+- alert: (\w+)", text)
        self.site = Site(port, "--configsvrs", "3", "--store", "etcd", "--workers", "1", "--bare", proxy_settings=PROXY)
        self.webhook, self.fired = Webhook(), {}
        rules = self.site.dir / "rules.yml"
        rules.write_text(hurried(text))
        self.manager = self.alertmanager()
        self.haproxy, door = self.balancer()
        texts = self.texts()
        self.site.prometheus(self.manager, rules, haproxy=[door], etcd=[e["addr"] for e in self.site.etcd], node=[texts])
        self.start = time.monotonic()

    def alertmanager(self):
        port = free_port()
        conf = self.site.dir / "alertmanager.yml"
        conf.write_text(ALERTMANAGER.format(port=self.webhook.port))
        self.site.start("alertmanager", "prometheus-alertmanager", f"--config.file={conf}",
                        f"--storage.path={self.site.dir}/am", f"--web.listen-address=127.0.0.1:{port}",
                        "--cluster.listen-address=")
        until("the Alertmanager", lambda: get(f"http://127.0.0.1:{port}/-/ready"))
        return port

    def balancer(self):
        """A haproxy as the role's, before both proxies; how to start it again, and where it tells of itself."""
        port, conf = free_port(), self.site.dir / "haproxy.cfg"
        servers = "".join(f"    server {p['name']} {p['addr']} check port {p['admin_addr'].rpartition(':')[2]}\n"
                          for p in self.site.proxies)
        conf.write_text(HAPROXY.format(clients=free_port(), admin=port, servers=servers))
        for name in HAPROXY_WORDS:
            if name not in (ROOT / "ansible/roles/haproxy/templates/haproxy.cfg.j2").read_text():
                raise Failed(f"the haproxy of the role has no {name} any more")
        start = lambda: self.site.start("haproxy", "haproxy", "-db", "-f", str(conf))  # noqa: E731
        return {"process": start(), "again": start}, f"127.0.0.1:{port}"

    def texts(self):
        """What the exporter of a machine would say beside its own."""
        port, at = free_port(), self.site.dir / "texts"
        at.mkdir()
        (at / "metrics").write_text("")
        self.site.start("texts", sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(at), str(port))
        return f"127.0.0.1:{port}"

    def fires(self, *names):
        for name in names:
            texts = until(f"{name}, firing", lambda name=name: self.webhook.told("firing", name), 60)
            if len(texts.get("runbook", "")) < 60:
                raise Failed(f"{name} does not say what to do: {texts}")
            if name not in self.fired:
                print(f"{time.monotonic() - self.start:5.0f} s  firing  {name}: {texts['summary']}", flush=True)
            self.fired[name] = texts

    def ctl(self, *words):
        return self.site.ctl(*words)

    def quiet(self, seconds=90):
        """Nothing fires any more: every alert that was told of has ended."""

        def still():
            active = json.loads(get(f"http://127.0.0.1:{self.manager}/api/v2/alerts?active=true"))
            names = sorted({alert["labels"]["alertname"] for alert in active})
            if names:
                raise Failed(f"still firing: {names}")
            return True

        until("quiet", still, seconds)

    def ends(self, wanted):
        """All that were wanted have fired; and the end of each that fired was told."""
        self.quiet()
        missing = sorted(set(wanted) - set(self.fired))
        if missing:
            raise Failed(f"never fired: {missing}")
        for name in self.fired:
            until(f"{name}, resolved", lambda name=name: self.webhook.told("resolved", name), 30)


@contextlib.contextmanager
def frozen(*pids):
    """As processes that hang."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


# -- What happens ------------------------------------------------------------------------------------------------------


def nobody_owns_slots(stage):
    stage.ctl("cluster", "create", "--name", "alerts", "--yes")
    redis = [s["addr"] for s in stage.site.servers.values() if s["kind"] == "redis"]
    for primary, replica in (redis[0:2], redis[2:4]):
        stage.ctl("groups", "add", "--primary", primary, "--replica", replica, "--yes")
    stage.fires("TwemslotSlotsUnowned")
    stage.ctl("slots", "spread", "--yes")
    stage.quiet()


def a_primary_dies(stage):
    again = stage.site.kill(stage.site.primary(1))
    stage.fires("TwemslotPrimaryReplaced", "TwemslotInstanceDown", "TwemslotNoReplica")
    again()
    until("a replica again", lambda: "master_link_status:up" in stage.site.redis_cli(
        "info", "replication", server=stage.site.instances(1)[1]))


def a_primary_hangs_under_maintenance(stage):
    """It is not replaced then; who copies to it waits."""
    target = stage.site.primary(2)
    pipeline(stage.site.proxies[0], [["SET", f"move:{n}", "x" * 100] for n in range(4000)])
    move = ["migrations", "start", "--from", "g1", "--to", "g2", "--slots", "0-99", "--keys-per-s", "50", "--yes"]
    stage.ctl(*move)
    stage.ctl("guard", "group", "g2", "--maintenance", "true")
    until("the copy", lambda: stage.site.query('twemslot_configsvr_migration_phase{phase="copy"}'))
    with frozen(target["pid"]):
        stage.fires("TwemslotPrimaryDown", "TwemslotNoFailover", "TwemslotErrors", "TwemslotMigrationStuck")
    stage.ctl("guard", "group", "g2", "--maintenance", "false")
    stage.ctl("migrations", "cancel", str(json.loads(stage.ctl("--json", "migrations", "list"))[0]["id"]), "--yes")


def a_replica_lags_when_its_primary_hangs(stage):
    """The password that it shows is refused, so it is not connected; then it has to lead."""
    primary, replica = stage.site.instances(1)
    stage.site.redis_cli("config", "set", "masterauth", "wrong", server=replica)
    stage.site.redis_cli("client", "kill", "type", "replica", server=primary)
    pipeline(stage.site.proxies[0], [["SET", f"lag:{n}", "x" * 1000] for n in range(400)])
    stage.fires("TwemslotReplicaDisconnected", "TwemslotReplicaBehind")
    with frozen(primary["pid"]):
        until("another primary", lambda: stage.site.primary(1)["addr"] == replica["addr"])
        time.sleep(25)  # more than was made of an hour
    stage.site.redis_cli("config", "set", "masterauth", "", server=replica)
    stage.fires("TwemslotWritesLost")


def memory_is_short(stage):
    primary = stage.site.primary(1)
    used = int(re.search(r"used_memory:(\d+)", stage.site.redis_cli("info", "memory", server=primary)).group(1))
    stage.site.redis_cli("config", "set", "maxmemory", str(used * 105 // 100), server=primary)
    stage.fires("TwemslotInstanceMemoryNearLimit")
    stage.site.redis_cli("config", "set", "maxmemory", "256mb", server=primary)


def a_worker_hangs_while_primaries_change(stage):
    """A switchover waits for it, with slots held, and gives up after seconds. The other proxy's clients wait, too."""
    many = [["SET", f"held:{n}", "x"] for n in range(200)]
    with frozen(stage.site.worker(stage.site.proxies[1])), Talker(stage.site.proxies[0], many):
        for _ in range(10):
            stage.site.ctl("switchover", "g1", "--yes", check=False)
            wanted = ["TwemslotRequestsHeld", "TwemslotFailoverStuck", "TwemslotSlow", "TwemslotEpochsDiverge"]
            if all(stage.webhook.told("firing", name) for name in wanted):
                break
        stage.fires(*wanted)


def a_worker_is_busy(stage):
    costly = [["EXISTS", *(f"key:{n}" for n in range(100))]] * 100
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(Talker(stage.site.proxies[0], costly, pause_s=0))
        stage.fires("TwemslotWorkerFull")


def clients_do_not_read(stage):
    """Their buffers grow until the limit is near, and stay so; then it is reached."""
    stage.site.redis_cli("setrange", "big", "1000000", "x")
    admin = stage.site.proxies[0]["admin_addr"]
    with Deaf(stage.site.proxies[0], 40) as deaf:

        def near():
            said = get(f"http://{admin}/metrics")
            names = (rf"(?m)^twemslot_proxy_buffer_memory{name} (\S+)" for name in ("_bytes", "_max_bytes"))
            now, most = (float(re.search(name, said)[1]) for name in names)
            if now / most < 0.72:
                deaf.ask()
                time.sleep(0.5)  # until it is told
            return now / most >= 0.72

        until("buffers near their limit", near)
        stage.fires("TwemslotProxyMemoryNearLimit")
        deaf.go_on()
        stage.fires("TwemslotClientsEvicted")


def a_configuration_is_wrong(stage):
    proxy = stage.site.proxies[0]
    conf = stage.site.dir / "state" / "proxy" / proxy["name"] / "proxy.yml"
    good = conf.read_text()
    conf.write_text(good + "no_such_setting: 1\n")
    os.kill(proxy["pid"], signal.SIGHUP)
    stage.fires("TwemslotReloadFailed")
    conf.write_text(good)
    os.kill(proxy["pid"], signal.SIGHUP)


def workers_die(stage):
    """Each death is seen by a scrape, so that there is growth to see."""
    proxy = stage.site.proxies[0]
    deaths = f'twemslot_proxy_worker_respawns_total{{instance="{proxy["admin_addr"]}"}}'
    for _ in range(4):
        seen = stage.site.query(deaths)[0]["value"][1]
        os.kill(until("a worker", lambda: stage.site.worker(proxy)), signal.SIGKILL)
        until("its death in a scrape", lambda seen=seen: stage.site.query(f"{deaths} > {seen}"))
    stage.fires("TwemslotWorkersDie")


def proxies_die(stage):
    again = [stage.site.kill(proxy) for proxy in stage.site.proxies]
    stage.fires("TwemslotProxyDown", "TwemslotNoProxy", "TwemslotBalancerEmpty")
    for start in again:
        start()


def haproxy_dies(stage):
    stage.haproxy["process"].kill()
    stage.fires("TwemslotBalancerDown")
    stage.haproxy["process"] = stage.haproxy["again"]()


def a_drain_is_forgotten(stage):
    name = stage.site.proxies[1]["name"]
    stage.ctl("proxies", "drain", name, "--yes")
    stage.fires("TwemslotDrainForgotten")
    stage.ctl("proxies", "undrain", name, "--yes")


def a_certificate_ends(stage):
    """In a day; then there is a new one."""
    at = stage.site.dir / "tls"
    at.mkdir()

    def certificate(days):
        words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=h1 -keyout /dev/null -out"
        subprocess.run(["openssl", *words.split(), at / "host.pem", "-days", str(days)], check=True, capture_output=True)
        subprocess.run([CERTIFICATES, stage.site.dir / "texts" / "all.prom", at], check=True)
        (stage.site.dir / "texts" / "all.prom").rename(stage.site.dir / "texts" / "metrics")

    certificate(1)
    stage.fires("TwemslotCertificateExpires")
    certificate(90)


def new_certificates_are_wrong(stage):
    """Of a configsvr that is told to read them again."""
    member, ca = stage.site.members[0], stage.site.dir / "ca.pem"
    good = (ROOT / "cluster/src/testdata/tls/ca.pem").read_text()
    ca.write_text(good)
    again = stage.site.kill(member)
    conf = stage.site.dir / "state" / "configsvr" / member["name"] / "configsvr.yml"
    with conf.open("a") as text:
        text.write(f"instance_tls: {{ca_file: {ca}}}\n")
    again()
    until("the member", lambda: get(f"http://{member['addr']}/healthz"))
    wait_until_well(stage)
    ca.write_text("none\n")
    os.kill(member["pid"], signal.SIGHUP)
    stage.fires("TwemslotConfigsvrReloadFailed")
    ca.write_text(good)
    os.kill(member["pid"], signal.SIGHUP)


def configsvrs_hang(stage):
    with frozen(*(member["pid"] for member in stage.site.members)):
        stage.fires("TwemslotMemberDown", "TwemslotNoLeader", "TwemslotProxyAlone")


def etcd_has_no_quorum(stage):
    with frozen(stage.site.etcd[1]["pid"]):
        stage.fires("TwemslotEtcdMemberDown")
        with frozen(stage.site.etcd[2]["pid"]):
            stage.fires("TwemslotStoreUnreachable")


def somebody_edits_the_store(stage):

    def etcd(what, **said):
        url = f"http://{stage.site.etcd[0]['addr']}/v3/kv/{what}"
        said = {key: b64encode(value).decode() for key, value in said.items()}
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(said).encode()), timeout=10) as answer:
            return json.load(answer)

    key = STORE_KEY.encode()
    good = b64decode(etcd("range", key=key)["kvs"][0]["value"])
    etcd("put", key=key, value=b"not a group")
    stage.fires("TwemslotStoreInvalid", "TwemslotAlarm")
    etcd("put", key=key, value=good)


SCENES = [
    a_primary_dies, a_primary_hangs_under_maintenance, a_replica_lags_when_its_primary_hangs, memory_is_short,
    a_worker_hangs_while_primaries_change, a_worker_is_busy, clients_do_not_read, a_configuration_is_wrong, workers_die,
    proxies_die, haproxy_dies, a_drain_is_forgotten, a_certificate_ends, new_certificates_are_wrong, configsvrs_hang,
    etcd_has_no_quorum, somebody_edits_the_store,
]
FEW = [
    a_primary_dies, a_primary_hangs_under_maintenance, memory_is_short, a_worker_hangs_while_primaries_change, proxies_die,
    etcd_has_no_quorum,
]


def main():
    few = sys.argv[1:] == ["--few"]
    stage = Stage("auto")
    nobody_owns_slots(stage)
    with Talker(stage.site.proxies[0]):
        for scene in FEW if few else SCENES:
            scene(stage)
            wait_until_well(stage)
    stage.ends([] if few else stage.names)
    print(f"{len(stage.fired)} alerts fired and ended, within {time.monotonic() - stage.start:.0f} s")
    return 0


def wait_until_well(stage):
    """The next thing happens to a cluster that has got over the last one."""

    def well():
        for server in (s for s in stage.site.servers.values() if s["kind"] == "redis"):
            addr = f'addr="{server["addr"]}"'
            if not stage.site.query(f"min(twemslot_configsvr_instance_up{{{addr}}}) == 1"):
                raise Failed(f"{server['addr']} is not up")
        for what in (
            "min(twemslot_configsvr_instance_replication_link_up) == 1", "sum(twemslot_configsvr_leading) == 1",
            "min(twemslot_configsvr_proxies_alive) == 2", "max(twemslot_configsvr_failovers_active) == 0",
            "min(twemslot_configsvr_store_reachable) == 1", f"count(up == 1) == {stage.site.scraped}",
        ):
            if not stage.site.query(what):
                raise Failed(f"not: {what}")
        return True

    until("a cluster that is well again", well)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failed:
        sys.exit(str(failed))
