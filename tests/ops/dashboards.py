#!/usr/bin/env python3
"""Every query of every panel, asked of a real Prometheus that watches a real cluster under load in which a primary has died
and come back, and slots move: each must give data.

    tests/ops/dashboards.py [PORT]        (make dashboards-test)
"""

import json
import sys
import time

from stand import GRAFANA, Failed, Site, free_port, get, until

# Of these nothing can be there yet: the metric and why.
EXEMPT = {
    "twemslot_configsvr_alarm_active": "a series for each alarm, and there is none",
    "twemslot_configsvr_failover_lost_bytes": "these servers keep nothing: an old primary that comes back empty cannot say",
}


def queries():
    """Of each panel: where it is, and what it asks."""
    for path in sorted(GRAFANA.glob("dashboards/*.json")):
        dashboard = json.loads(path.read_text())
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                inner = variable["query"]["query"].removeprefix("label_values(").removesuffix(")")
                metric, _, label = inner.rpartition(", ")
                yield f"{path.name}: ${variable['name']}", f"count by ({label}) ({metric})"
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                text = target["expr"].replace("$__rate_interval", "20s")
                text = text.replace("$proxy", ".*").replace("$group", ".*")
                yield f"{path.name}: {panel['title']}", text


def a_primary_dies_and_comes_back(site):
    """So that there is a failover to tell of."""
    old = site.primary(1)
    again = site.kill(old)
    until("another primary", lambda: site.primary(1)["addr"] != old["addr"])
    again()


def slots_move(site):
    """One that is over, of which a pushgateway is told, and a slow one, so that there is a migration to tell of as long as anybody asks."""
    port = free_port()
    site.start("pushgateway", "prometheus-pushgateway", f"--web.listen-address=127.0.0.1:{port}")
    until("the pushgateway", lambda: get(f"http://127.0.0.1:{port}/-/ready"))
    site.ctl("--pushgateway", f"127.0.0.1:{port}", "migrations", "start", "--from", "g2", "--to", "g1", "--count", "1", "--yes",
             "--wait")
    told = get(f"http://127.0.0.1:{port}/metrics")
    if 'twemslot_migration_run_succeeded{from="2",instance="",job="twemslotctl",to="1"} 1' not in told:
        raise Failed(f"the pushgateway was not told how the migration went: {told[-2000:]}")
    site.ctl("migrations", "start", "--from", "g2", "--to", "g1", "--count", "50", "--keys-per-s", "5", "--yes")


def main():
    site = Site(*sys.argv[1:2])
    site.load()
    site.prometheus()
    until("requests", lambda: site.query("sum(rate(twemslot_proxy_requests_total[10s])) > 0"))
    a_primary_dies_and_comes_back(site)
    slots_move(site)
    asked, exempt, silent = 0, [], []
    end = time.monotonic() + 60
    for where, text in queries():
        reasons = [why for metric, why in EXEMPT.items() if metric in text]
        if reasons:
            exempt.append(f"{where}: {reasons[0]}")
            continue
        asked += 1
        try:
            until(where, lambda text=text: site.query(text), max(end - time.monotonic(), 1))
        except Failed:
            silent.append(f"{where}: no data for {text}")
    for line in silent:
        print(line, file=sys.stderr)
    print(f"{asked} queries, {len(silent)} without data, {len(exempt)} exempt")
    return 1 if silent else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failed:
        sys.exit(str(failed))
