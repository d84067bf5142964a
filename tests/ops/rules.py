#!/usr/bin/env python3
"""Looks at the alerts and dashboards without a server, in a second: promtool's checks, that every alert fires on what it is
for, is quiet before, ends afterwards, and says what to do; and that the dashboards are what their generator makes.

    tests/ops/rules.py

Needs promtool (Debian: prometheus) and PyYAML (python3-yaml).
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = ROOT / "grafana" / "alerts" / "twemslot.yml"
P, C = "twemslot_proxy_", "twemslot_configsvr_"
# Coarse, because each step costs: windows are up to 10 minutes, and waits 5.
STEP_S = 15
DAY_S = 86400
WELL_S, ILL_S, AFTER_S = 120, 660, 660

# Alert: series of (name, when all is well, while it is not), values at every step; a pair (rate) is a counter that grows by so
# much a step, "gone" is a series that is not there.
GONE = "gone"
CASES = {
    "TwemslotProxyDown": [('up{job="twemslot-proxy",instance="p"}', 1, 0)],
    "TwemslotNoProxy": [(f"{C}proxies_alive", 1, 0), (f"{C}groups", 2, 2)],
    "TwemslotWorkersDie": [(f"{P}worker_respawns_total", (0,), (1,))],
    "TwemslotWorkerFull": [(f'{P}worker_cpu_seconds_total{{worker="0"}}', (1,), (14.5,))],
    "TwemslotProxyMemoryNearLimit": [(f"{P}buffer_memory_bytes", 10, 75), (f"{P}buffer_memory_max_bytes", 100, 100)],
    "TwemslotClientsEvicted": [(f'{P}clients_evicted_total{{cause="memory"}}', (0,), (1,))],
    "TwemslotErrors": [(f'{P}errors_total{{cause="timeout",instance="p"}}', (0,), (1,)),
                       (f'{P}errors_total{{cause="arity",instance="p"}}', (5,), (5,)),
                       (f'{P}requests_total{{instance="p"}}', (100,), (100,))],
    "TwemslotRequestsHeld": [(f"{P}requests_held", 0, 3)],
    "TwemslotSlow": [(f'{P}request_duration_seconds_bucket{{le="0.01"}}', (10,), (0,)),
                     (f'{P}request_duration_seconds_bucket{{le="1"}}', (10,), (10,)),
                     (f'{P}request_duration_seconds_bucket{{le="+Inf"}}', (10,), (10,)),
                     (f'{P}instance_duration_seconds_bucket{{le="0.01"}}', (10,), (10,)),
                     (f'{P}instance_duration_seconds_bucket{{le="+Inf"}}', (10,), (10,))],
    "TwemslotReloadFailed": [(f'{P}reloads_total{{result="failed"}}', (0,), (1,))],
    "TwemslotProxyAlone": [(f"{P}configsvr_reachable", 1, 0)],
    # One member that is cut off wakes nobody.
    "TwemslotPrimaryDown": [(f'{C}instance_up{{role="primary",group="1",addr="a",instance="m1"}}', 0, 0),
                            (f'{C}instance_up{{role="primary",group="1",addr="a",instance="m2"}}', 1, 0)],
    "TwemslotPrimaryReplaced": [(f'{C}failover_decided_time_seconds{{group="1",kind="failover"}}', GONE, WELL_S),
                                (f'{C}failover_decided_time_seconds{{group="2",kind="switchover"}}', WELL_S, WELL_S)],
    "TwemslotFailoverStuck": [(f"{C}failovers_active", 0, 1)],
    "TwemslotInstanceDown": [(f'{C}instance_up{{role="replica",group="1",addr="b"}}', 1, 0),
                             (f'{C}instance_up{{role="replica",group="1",addr="c"}}', 1, 1)],
    "TwemslotNoReplica": [(f'{C}group_slots{{group="1"}}', 9, 9),
                          (f'{C}instance_up{{role="replica",group="1",addr="b",instance="m1"}}', 1, 0),
                          (f'{C}instance_up{{role="replica",group="1",addr="b",instance="m2"}}', 0, 0)],
    "TwemslotReplicaDisconnected": [(f'{C}instance_replication_link_up{{group="1",addr="b"}}', 1, 0)],
    "TwemslotReplicaBehind": [(f'{C}instance_replication_lag_bytes{{group="1",addr="b"}}', 1e6, 1e8)],
    "TwemslotInstanceMemoryNearLimit": [(f'{C}instance_memory_bytes{{group="1",addr="a"}}', 80, 95),
                                        (f'{C}instance_memory_max_bytes{{group="1",addr="a"}}', 100, 100)],
    # Of a primary that was replaced long ago.
    "TwemslotWritesLost": [(f'{C}failover_lost_bytes{{group="1"}}', 0, 12),
                           (f'{C}failover_decided_time_seconds{{group="1",kind="switchover"}}', -9000, -9000),
                           (f'{C}failover_lost_time_seconds{{group="1"}}', -9000, WELL_S)],
    "TwemslotSlotsUnowned": [(f"{C}slots_unowned", 0, 5), (f"{C}groups", 2, 2)],
    "TwemslotEpochsDiverge": [(f'{C}topology_epoch{{instance="m1"}}', 7, 9), (f'{C}topology_epoch{{instance="m2"}}', 7, 8),
                              (f'{P}topology_epoch_served{{instance="p"}}', 7, 7),
                              (f'{P}topology_epoch_served{{instance="q"}}', 7, 9)],
    "TwemslotMemberDown": [('up{job="twemslot-configsvr",instance="m1"}', 1, 0)],
    "TwemslotNoLeader": [(f'{C}leading{{instance="m1"}}', 1, 0), (f'{C}leading{{instance="m2"}}', 0, 0)],
    "TwemslotStoreUnreachable": [(f'{C}store_reachable{{instance="m1"}}', 0, 0),
                                 (f'{C}store_reachable{{instance="m2"}}', 1, 0)],
    "TwemslotStoreInvalid": [(f"{C}store_invalid_records", 0, 1)],
    "TwemslotNoFailover": [(f'{C}alarm_active{{kind="not_a_primary",subject="1"}}', GONE, 1)],
    "TwemslotAlarm": [(f'{C}alarm_active{{kind="k",subject="s"}}', GONE, 1)],
    "TwemslotMigrationStuck": [(f'{C}migration_phase{{id="1",phase="copy"}}', GONE, 1),
                               (f'{C}migration_phase{{id="2",phase="copy"}}', 1, 1),
                               (f'{C}migration_keys_scanned_total{{id="2"}}', (5,), (5,)),
                               (f'{C}migration_keys_scanned_total{{id="1"}}', (1,), (0,))],
    "TwemslotDrainForgotten": [(f'{P}draining{{instance="p"}}', 0, 1), (f'{P}draining{{instance="q"}}', 0, 0)],
    "TwemslotConfigsvrReloadFailed": [(f'{C}reloads_total{{result="failed"}}', (0,), (1,)),
                                      (f'{C}reloads_total{{result="ok"}}', (1,), (1,))],
    "TwemslotCertificateExpires": [('twemslot_certificate_expires_time_seconds{file="a"}', 30 * DAY_S, 10 * DAY_S),
                                   ('twemslot_certificate_expires_time_seconds{file="b"}', 30 * DAY_S, 30 * DAY_S)],
    "TwemslotBalancerDown": [('up{job="haproxy",instance="h"}', 1, 0)],
    "TwemslotBalancerEmpty": [('haproxy_backend_active_servers{proxy="proxies",instance="h"}', 2, 0)],
    "TwemslotEtcdMemberDown": [('up{job="etcd",instance="e1"}', 1, 0), ('up{job="etcd",instance="e2"}', 1, 1)],
}
# What has to last for longer than ILL_S before anybody is told.
LONG_S = {"TwemslotDrainForgotten": 3900}
# What is said of the same cause beside it.
ALSO = {"TwemslotNoReplica": ["TwemslotInstanceDown"]}
# What may last as long as it likes, and is nobody's business: series of (name, values at every step).
WELL = [
    # Slots move: epochs come by the second, and a proxy is scraped a moment before the control plane.
    [(f'{C}topology_epoch{{instance="m1"}}', "6+6x60"), (f'{P}topology_epoch_served{{instance="p"}}', "0+6x60")],
    [(f'{C}topology_epoch{{instance="m1"}}', "0+6x60"), (f'{P}topology_epoch_served{{instance="p"}}', "6+6x60")],
    # A group that was given no replica, beside one that has them.
    [(f'{C}group_slots{{group="1"}}', "9x60"), (f'{C}group_slots{{group="2"}}', "9x60"),
     (f'{C}instance_up{{role="primary",group="1",addr="a"}}', "1x60"),
     (f'{C}instance_up{{role="replica",group="2",addr="b"}}', "1x60")],
    # A cache that is full, and its replica, which drops nothing by itself.
    [(f'{C}instance_memory_bytes{{group="1",addr="a"}}', "99x60"), (f'{C}instance_memory_bytes{{group="1",addr="b"}}', "99x60"),
     (f'{C}instance_memory_max_bytes{{group="1",addr="a"}}', "100x60"),
     (f'{C}instance_memory_max_bytes{{group="1",addr="b"}}', "100x60"),
     (f'{C}instance_evicted_keys_total{{group="1",addr="a"}}', "5x60"),
     (f'{C}instance_evicted_keys_total{{group="1",addr="b"}}', "0x60")],
    # A loss that was told of long ago.
    [(f'{C}failover_lost_bytes{{group="1"}}', "12x60"), (f'{C}failover_lost_time_seconds{{group="1"}}', "-9000x60")],
]
# Needed so that rules about what is absent are quiet where a case does not speak of it.
QUIET = [(f'{C}leading{{instance="m9"}}', 1, 1)]


def values(well, ill, ill_s):
    """In promtool's words: well, ill, well again."""
    parts, level = [], 0
    for value, seconds in ((well, WELL_S), (ill, ill_s), (well, AFTER_S)):
        steps = seconds // STEP_S
        if value == GONE:
            parts.append(f"_x{steps}")
        elif isinstance(value, tuple):
            parts.append(f"{level}+{value[0]}x{steps - 1}")
            level += value[0] * steps
        else:
            parts.append(f"{value}x{steps - 1}")
    return " ".join(parts)


def unit_test(alert, series):
    quiet = [] if any(name.startswith(f"{C}leading") for name, *_ in series) else QUIET
    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    one = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in (alert, *ALSO.get(alert, ()))]
    ill_s = LONG_S.get(alert, ILL_S)
    if alert == "TwemslotPrimaryReplaced":  # ends by itself, 5 minutes after it happened
        one_at, none_at = WELL_S + 195, WELL_S + 390
    else:
        one_at, none_at = WELL_S + ill_s - STEP_S, WELL_S + ill_s + AFTER_S - STEP_S
    tests = [(WELL_S - STEP_S, []), (one_at, one), (none_at, [])]
    return {"interval": f"{STEP_S}s", "input_series": [{"series": name, "values": values(well, ill, ill_s)}
                                                       for name, well, ill in [*series, *quiet]],
            "promql_expr_test": [{"expr": firing, "eval_time": f"{at}s", "exp_samples": samples}
                                 for at, samples in tests]}


def well_test(series):
    firing = 'count by (alertname) (ALERTS{alertstate=~"firing|pending"})'
    every = [{"series": name, "values": values} for name, values in series]
    every += [{"series": name, "values": f"{well}x60"} for name, well, _ in QUIET]
    return {"interval": f"{STEP_S}s", "input_series": every,
            "promql_expr_test": [{"expr": firing, "eval_time": f"{n * STEP_S}s", "exp_samples": []} for n in (5, 30, 55)]}


def promtool(*words):
    # It keeps its samples in files, which need not survive.
    scratch = {"TMPDIR": "/dev/shm"} if os.access("/dev/shm", os.W_OK) else {}
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, env={**os.environ, **scratch})
    return [] if done.returncode == 0 else [f"promtool {' '.join(words)}: {done.stdout}{done.stderr}"]


def main():
    faults = promtool("check", "rules", str(RULES))
    faults += promtool("check", "config", str(ROOT / "grafana" / "prometheus.yml"))
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    names = [rule["alert"] for rule in rules]
    faults += [f"{name}: no case here" for name in names if name not in CASES]
    faults += [f"{name}: a case without an alert" for name in CASES if name not in names]
    for rule in rules:
        texts = rule["annotations"]
        if len(texts.get("runbook", "").strip()) < 60 or not texts.get("summary"):
            faults.append(f"{rule['alert']}: does not say what is wrong (summary) and what to do (runbook)")
        if rule["labels"].get("severity") not in ("page", "ticket"):
            faults.append(f"{rule['alert']}: severity is page or ticket")
    with tempfile.TemporaryDirectory() as dir:
        file = Path(dir) / "tests.yml"
        tests = [unit_test(alert, series) for alert, series in CASES.items()]
        tests += [well_test(series) for series in WELL]
        whole = {"rule_files": [str(RULES)], "evaluation_interval": f"{STEP_S}s", "tests": tests}
        file.write_text(json.dumps(whole))
        faults += promtool("test", "rules", str(file))
    check = subprocess.run([str(ROOT / "grafana" / "generate"), "--check"], capture_output=True, text=True)
    faults += [check.stderr] if check.returncode else []
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(names)} alerts, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
