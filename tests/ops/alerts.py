#!/usr/bin/env python3
"""Every alert of the shipped rules fires and ends: its cause is brought about on a real cluster, a real Prometheus sees
it, a real Alertmanager tells a webhook, with what to do about it, and tells it again when it is over.

    tests/ops/alerts.py [PORT]        (make alerts-test)

The rules are the shipped ones, but in a hurry: see hurried().
"""

import contextlib
import json
import os
import re
import signal
import sys
import time
import urllib.request
from base64 import b64decode, b64encode

from stand import GRAFANA, Failed, Site, Webhook, free_port, get, until
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
        self.site.prometheus(self.manager, rules)
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

    def ends(self):
        """Every alert of the rules has fired, and its end was told."""
        self.quiet()
        missing = sorted(set(self.names) - set(self.fired))
        if missing:
            raise Failed(f"never fired: {missing}")
        for name in self.names:
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
    stage.site.redis_cli("setrange", "big", "1000000", "x")
    with Deaf(stage.site.proxies[0], 60):
        stage.fires("TwemslotProxyMemoryNearLimit", "TwemslotClientsEvicted")


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
    stage.fires("TwemslotProxyDown", "TwemslotNoProxy")
    for start in again:
        start()


def configsvrs_hang(stage):
    with frozen(*(member["pid"] for member in stage.site.members)):
        stage.fires("TwemslotMemberDown", "TwemslotNoLeader", "TwemslotProxyAlone")


def etcd_has_no_quorum(stage):
    with frozen(*(server["pid"] for server in stage.site.etcd[1:])):
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
    proxies_die, configsvrs_hang, etcd_has_no_quorum, somebody_edits_the_store,
]


def main():
    stage = Stage(*sys.argv[1:2] or ["auto"])
    nobody_owns_slots(stage)
    with Talker(stage.site.proxies[0]):
        for scene in SCENES:
            scene(stage)
            wait_until_well(stage)
    stage.ends()
    print(f"{len(stage.names)} alerts fired and ended, within {time.monotonic() - stage.start:.0f} s")
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
            "min(twemslot_configsvr_store_reachable) == 1", "count(up == 1) == 5",
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
