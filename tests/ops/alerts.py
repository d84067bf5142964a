#!/usr/bin/env python3
"""A real Alertmanager tells a webhook when a primary is killed and when a proxy dies, what to do about it, and that it is over.

    tests/ops/alerts.py [PORT]        (make alerts-test)

The shipped rules, but in a hurry: their waits are a second.
"""

import re
import sys

from stand import GRAFANA, Failed, Site, Webhook, free_port, get, until

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


def hurried(text):
    """Waits of a second; what is told for five minutes is told for 20 seconds."""
    text, waits = re.subn(r"(?m)^(\s+for): \w+$", r"\1: 1s", text)
    if not waits or text.count("< 300") != 1:
        raise Failed("the rules have changed: see hurried()")
    return text.replace("< 300", "< 20")


def alertmanager(site, webhook):
    port = free_port()
    conf = site.dir / "alertmanager.yml"
    conf.write_text(ALERTMANAGER.format(port=webhook.port))
    site.start("alertmanager", "prometheus-alertmanager", f"--config.file={conf}", f"--storage.path={site.dir}/am",
               f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=")
    until("the Alertmanager", lambda: get(f"http://127.0.0.1:{port}/-/ready"))
    return port


def told(webhook, status, name, **labels):
    texts = until(f"{name} {labels}, {status}", lambda: webhook.told(status, name, **labels), 90)
    if len(texts.get("runbook", "")) < 60:
        raise Failed(f"{name} does not say what to do: {texts}")
    print(f"{status:<9} {name}: {texts['summary']}", flush=True)


def main():
    site, webhook = Site(*sys.argv[1:2]), Webhook()
    rules = site.dir / "rules.yml"
    rules.write_text(hurried((GRAFANA / "alerts" / "twemslot.yml").read_text()))
    site.load()
    site.prometheus(alertmanager(site, webhook), rules)
    primary = site.primary(1)
    primary_again = site.kill(primary)
    told(webhook, "firing", "TwemslotPrimaryReplaced", group="1")
    told(webhook, "firing", "TwemslotInstanceDown", group="1", addr=primary["addr"])
    proxy = site.proxies[1]
    proxy_again = site.kill(proxy)
    told(webhook, "firing", "TwemslotProxyDown", instance=proxy["admin_addr"])
    primary_again()
    proxy_again()
    told(webhook, "resolved", "TwemslotProxyDown", instance=proxy["admin_addr"])
    told(webhook, "resolved", "TwemslotInstanceDown", group="1", addr=primary["addr"])
    told(webhook, "resolved", "TwemslotPrimaryReplaced", group="1")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failed:
        sys.exit(str(failed))
