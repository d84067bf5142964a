"""Writes grafana/dashboards/*.json, or with --check says what is wrong with them; status 1 then.

A panel is one line here: what it shows, how it is measured, and what good looks like. The form is that of Grafana's own
SDK, for Grafana 10.4 and later: run this by `grafana/generate`, which installs it.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from grafana_foundation_sdk.builders import common as build_common
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat as stats, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync, DashboardLinkType, DataSourceRef, DataTransformerConfig, FieldColorModeId, GridPos, Threshold,
    ThresholdsMode, VariableOption, VariableRefresh, VariableSort)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode

HERE = Path(__file__).resolve().parent
RATE = "[$__rate_interval]"
P, C = "twemslot_proxy_", "twemslot_configsvr_"
DATASOURCE = DataSourceRef("prometheus", "${datasource}")
GREEN = [Threshold(None, "green")]
GREEN_RED = [Threshold(None, "green"), Threshold(1, "red")]
RED_GREEN = [Threshold(None, "red"), Threshold(1, "green")]


def panel(title, unit, good, *targets, kind="timeseries", steps=None, stack=False, top=None):
    """`targets`: (expression, legend). `good`: what good looks like, in one line."""
    return {"title": title, "unit": unit, "good": good, "targets": targets, "kind": kind, "steps": steps, "stack": stack,
            "top": top}


def stat(title, unit, good, expr, steps):
    return panel(title, unit, good, (expr, ""), kind="stat", steps=steps)


def quantile(q, metric, by=""):
    return f"histogram_quantile({q}, sum by (le{by}) (rate({metric}_bucket{RATE})))"


def of_proxy(metric):
    return f'{P}{metric}{{instance=~"$proxy"}}'


def rate(metric, by=""):
    whole = f"rate({metric}{RATE})"
    return f"sum by ({by}) ({whole})" if by else f"sum({whole})"


def of_group(metric, extra=""):
    return f'{metric}{{group=~"$group"{extra}}}'


def worst(metric, by="group, addr"):
    """Members see the same instances: the one that sees most counts."""
    return f"max by ({by}) ({of_group(C + metric)})"


PROXY_VARIABLE = ("proxy", "Proxy", f"label_values({P}uptime_seconds, instance)")
GROUP_VARIABLE = ("group", "Group", f"label_values({C}group_slots, group)")

OVERVIEW = [
    ("Is all well?", [
        stat("Alarms", "none", "0. Each one names what needs somebody: see Control plane.", f"max({C}alarms)", GREEN_RED),
        stat("Proxies that serve", "none", "As many as were deployed.", f"max({C}proxies_alive)", RED_GREEN),
        stat("Primaries that are up", "none", "As many as there are groups.",
             f'count(max by (group, addr) ({C}instance_up{{role="primary"}}) == 1) or vector(0)', RED_GREEN),
        stat("Slots that nobody serves", "none", "0. Keys in such slots are refused.", f"max({C}slots_unowned)", GREEN_RED),
        stat("Epochs apart", "none", "0: every proxy serves the topology that the control plane has.",
             f"max({C}topology_epoch) - min({P}topology_epoch_served)", GREEN_RED),
        stat("Leaders", "none", "Exactly 1.", f"sum({C}leading)", RED_GREEN),
    ]),
    ("Is it us or Redis?", [
        panel("Requests", "reqps", "Follows the applications' day; no cliffs.",
              (f"sum(rate({P}requests_total{RATE}))", "requests")),
        panel("Time of a request", "s", "Flat. The gap between the two is ours: below a millisecond.",
              (quantile(0.99, f"{P}request_duration_seconds"), "99% whole"),
              (quantile(0.99, f"{P}instance_duration_seconds"), "99% at the instance"),
              (quantile(0.5, f"{P}request_duration_seconds"), "50% whole"),
              (quantile(0.5, f"{P}instance_duration_seconds"), "50% at the instance")),
        panel("Errors the proxies made", "reqps", "Zero but for clients' own mistakes (unknown_command, arity, cross_slot).",
              (rate(f"{P}errors_total", "cause"), "{{cause}}")),
        panel("Replies that are errors", "reqps", "What applications provoke, and nothing new.",
              (f"sum(rate({P}replies_error_total{RATE}))", "errors")),
    ]),
    ("Where it goes", [
        panel("Requests by group", "reqps", "Even, or as uneven as the slots; one line far above the others is a hot key.",
              (rate(f"{P}group_requests_total", "group"), "group {{group}}")),
        panel("Requests by range of slots", "reqps", "Bands of like height. A thick one: look at hotkeys, rebalance.",
              (rate(f"{P}slot_range_requests_total", "slots"), "{{slots}}"), stack=True),
        panel("Clients", "none", "Steady; a staircase upwards is a leak in an application.",
              (f"sum by (instance) ({P}clients)", "{{instance}}")),
        panel("Bytes to and from clients", "Bps", "Below what the network carries, with room for a failover.",
              (rate(f"{P}client_read_bytes_total"), "from clients"),
              (rate(f"{P}client_written_bytes_total"), "to clients")),
        panel("Memory of instances", "percentunit", "Below 0.9. Those without a bound are not shown.",
              (f"max by (group, addr) ({C}instance_memory_bytes / {C}instance_memory_max_bytes)", "{{group}} {{addr}}")),
    ]),
]

PROXY = [
    ("Load", [
        panel("Requests by worker", "reqps", "Lines close together: connections are spread evenly.",
              (f'sum by (instance, worker) (rate({of_proxy("worker_requests_total")}{RATE}))', "{{instance}} {{worker}}")),
        panel("Processor of each worker", "percentunit", "Below 0.7. At 1 a worker is full: raise `workers`.",
              (f'sum by (instance, worker) (rate({of_proxy("worker_cpu_seconds_total")}{RATE}))', "{{instance}} {{worker}}")),
        panel("Clients by worker", "none", "Lines close together.",
              (of_proxy("worker_clients"), "{{instance}} {{worker}}")),
        panel("Memory of workers", "bytes", "Flat after the first hour.",
              (of_proxy("worker_resident_memory_bytes"), "{{instance}} {{worker}}")),
        panel("Buffers, of what they may take", "percentunit", "Far below 0.8, where accepting stops.",
              (f'{of_proxy("buffer_memory_bytes")} / {of_proxy("buffer_memory_max_bytes")}', "{{instance}}")),
        panel("Commands", "reqps", "The mix you know.",
              (f'topk(10, sum by (command) (rate({of_proxy("command_calls_total")}{RATE})))', "{{command}}")),
    ]),
    ("Time", [
        panel("Time of a request", "s", "99.9% is within a few times 50%.",
              *[(f'histogram_quantile({q}, sum by (le) (rate({of_proxy("request_duration_seconds_bucket")}{RATE})))', n)
                for q, n in ((0.5, "50%"), (0.99, "99%"), (0.999, "99.9%"))]),
        panel("Mean time by command", "s", "Blocking commands are as slow as they were asked to be; others below a millisecond.",
              (f'topk(10, sum by (command) (rate({of_proxy("command_duration_seconds_total")}{RATE})) / '
               f'(sum by (command) (rate({of_proxy("command_calls_total")}{RATE})) > 0))', "{{command}}")),
        panel("Turns of the loop that took long", "ops", "Zero; otherwise the machine is short of processors.",
              (f'sum by (instance) (rate({of_proxy("loop_stalls_total")}{RATE}))', "{{instance}}")),
        panel("System calls for a request", "none", "Below 2.6, and less the more there is to do.",
              (f'(sum(rate({of_proxy("read_calls_total")}{RATE})) + sum(rate({of_proxy("write_calls_total")}{RATE}))) / '
               f'(sum(rate({of_proxy("requests_total")}{RATE})) > 0)', "calls")),
    ]),
    ("Trouble", [
        panel("Errors by cause", "reqps", "link_down, outcome_unknown, timeout, overload, held_too_long: zero.",
              (f'sum by (cause) (rate({of_proxy("errors_total")}{RATE}))', "{{cause}}")),
        panel("Clients the proxy closed", "ops", "Zero. memory: a client does not read; protocol: it does not speak RESP.",
              (f'sum by (cause) (rate({of_proxy("clients_evicted_total")}{RATE}))', "{{cause}}")),
        panel("Links to instances", "none", "`down` is zero.",
              (f'sum by (state) ({of_proxy("links")})', "{{state}}")),
        panel("Requests that wait", "none", "In flight: like the load. Held: zero but for seconds of a move or failover.",
              (f'sum({of_proxy("requests_in_flight")})', "in flight"), (f'sum({of_proxy("requests_held")})', "held"),
              (f'sum({of_proxy("clients_blocked")})', "blocked by their own wish")),
        panel("Output that waits", "bytes", "Near zero; growth says who is slow.",
              (f'sum({of_proxy("client_output_bytes")})', "for clients"),
              (f'sum({of_proxy("link_output_bytes")})', "for instances")),
        panel("Workers that died", "none", "0 for ever.",
              (f'sum by (instance) (increase({of_proxy("worker_respawns_total")}{RATE}))', "{{instance}}")),
    ]),
    ("With the control plane", [
        panel("Epoch served", "none", "All proxies on one line.",
              (of_proxy("topology_epoch_served"), "{{instance}}")),
        panel("Heartbeats that failed", "ops", "Zero.",
              (f'sum by (instance) (rate({P}beats_total{{instance=~"$proxy",result="failed"}}{RATE}))', "{{instance}}")),
        panel("Reloads", "none", "No `failed`.",
              (f'sum by (instance, result) (increase({of_proxy("reloads_total")}{RATE}))', "{{instance}} {{result}}")),
    ]),
]

GROUPS = [
    ("As the proxies see the groups", [
        panel("Requests", "reqps", "Like the group's share of the keys.",
              (rate(of_group(P + "group_requests_total"), "group"), "group {{group}}")),
        panel("Mean time at the instance", "s", "Below a millisecond, and the same for all groups.",
              (f'{rate(of_group(P + "group_duration_seconds_total"), "group")} / '
               f'({rate(of_group(P + "group_requests_total"), "group")} > 0)', "group {{group}}")),
        panel("Bytes", "Bps", "Below what the network carries.",
              (rate(of_group(P + "group_read_bytes_total"), "group"), "from group {{group}}"),
              (rate(of_group(P + "group_written_bytes_total"), "group"), "to group {{group}}")),
        panel("Waiting for replies", "none", "Like the load; a group that grows alone is slow.",
              (f'sum by (group) ({of_group(P + "group_requests_in_flight")})', "group {{group}}")),
        panel("Errors", "reqps", "What applications provoke.",
              (rate(of_group(P + "group_errors_total"), "group"), "group {{group}}")),
        panel("Replies of instances that cannot serve", "reqps", "Zero. readonly: a primary that is none; loading: a restart.",
              (rate(of_group(P + "group_unfit_replies_total"), "group, cause"), "group {{group}} {{cause}}")),
        panel("Links that failed", "ops", "Zero.",
              (rate(of_group(P + "group_links_failed_total"), "group"), "group {{group}}")),
        panel("Requests, by the primary that serves them now", "reqps", "One line a primary; it changes its name with a failover.",
              (f'{rate(of_group(P + "group_requests_total"), "group")} * on (group) group_left (addr) '
               f'max by (group, addr) ({of_group(P + "group_primary")})', "{{addr}}")),
    ]),
    ("The instances", [
        panel("Up", "none", "1, each.", (worst("instance_up"), "{{group}} {{addr}}")),
        panel("Since the last reply", "s", "Below 0.3 s.",
              (f'min by (group, addr) ({of_group(C + "instance_heard_age_seconds")})', "{{group}} {{addr}}")),
        panel("Memory", "bytes", "Below its bound, if it has one.",
              (worst("instance_memory_bytes"), "{{group}} {{addr}}"),
              (worst("instance_memory_max_bytes"), "{{group}} {{addr}} at most")),
        panel("Keys", "short", "Like the application's day.", (worst("instance_keys"), "{{group}} {{addr}}")),
        panel("Keys evicted", "ops", "Zero, unless this is a cache.",
              (f'max by (group, addr) (rate({of_group(C + "instance_evicted_keys_total")}{RATE}))', "{{group}} {{addr}}")),
        panel("Commands executed", "ops", "Primaries like their requests; replicas like the writes.",
              (f'max by (group, addr) (rate({of_group(C + "instance_commands_total")}{RATE}))', "{{group}} {{addr}}")),
        panel("Connections", "none", "Flat: proxies share links.", (worst("instance_clients"), "{{group}} {{addr}}")),
        panel("History written", "Bps", "The rate of writes; replicas keep up with their primary.",
              (f'max by (group, addr) (deriv({of_group(C + "instance_replication_offset_bytes")}{RATE}))',
               "{{group}} {{addr}}")),
        panel("What replicas lack", "bytes", "Kilobytes. A failover loses what nobody has.",
              (worst("instance_replication_lag_bytes"), "{{group}} {{addr}}")),
        panel("Replicas connected to their primary", "none", "1, each.",
              (worst("instance_replication_link_up"), "{{group}} {{addr}}")),
    ]),
]

CHANGES = [
    ("Failover", [
        stat("Under way", "none", "0 but for a second or two.", f"max({C}failovers_active)", GREEN_RED),
        panel("Members that accuse an instance", "none", "Zero.",
              (f"max by (group, addr) ({C}instance_votes)", "{{group}} {{addr}}")),
        panel("Since a group's primary changed", "s", "Grows; it falls to zero when a primary changes.",
              (f"time() - max by (group, kind) ({C}failover_decided_time_seconds)", "group {{group}} {{kind}}"), kind="table"),
        panel("How long the last change took, by phase", "s", "`ended` within 2 s of the doubt.",
              (f"max by (group, phase) ({C}failover_phase_seconds)", "group {{group}} {{phase}}"), kind="table"),
        panel("Changes that are remembered", "none", "Those you know of.",
              (f"max by (group, kind, phase) ({C}failovers)", "group {{group}} {{kind}} {{phase}}"), kind="table"),
        panel("History lost with the old primary", "bytes", "0. More: writes that were acknowledged are gone.",
              (f"max by (group) ({C}failover_lost_bytes)", "group {{group}}"), kind="table"),
        panel("Failovers that were forbidden", "none", "0; more: members and proxies disagree about who is alive.",
              (f"sum(increase({C}failover_vetoes_total{RATE}))", "vetoes")),
    ]),
    ("What clients feel of it", [
        panel("Requests held", "reqps", "A short spike with each change.", (f"sum(rate({P}requests_held_total{RATE}))", "held")),
        panel("Mean time held", "s", "Below a second.",
              (f"sum(rate({P}requests_held_seconds_total{RATE})) / (sum(rate({P}requests_held_total{RATE})) > 0) or vector(0)",
               "held")),
        panel("Slots held", "none", "Zero between changes.", (f"max({P}slots_held)", "slots")),
        panel("Errors of a lost primary", "reqps", "A spike with a death, none with a switchover.",
              (f'sum by (cause) (rate({P}errors_total{{cause=~"link_down|outcome_unknown|held_too_long"}}{RATE}))',
               "{{cause}}")),
        panel("Lost links that may still execute", "none", "Zero within seconds.", (f"sum({P}orphans)", "orphans")),
    ]),
    ("Migration", [
        stat("Under way", "none", "As many as were asked for.", f"max({C}migrations_active)",
             [{"color": "green", "value": None}]),
        panel("Phase", "none", "Each goes from waiting over copy, fence and clean to its end.",
              (f"max by (id, phase) ({C}migration_phase)", "{{id}} {{phase}}"), kind="table"),
        panel("Keys copied", "ops", "Steady while it copies.",
              (f"sum by (id) (rate({C}migration_keys_copied_total{RATE}))", "{{id}}")),
        panel("Bytes copied", "Bps", "At the limit that was set for it.",
              (f"sum by (id) (rate({C}migration_bytes_copied_total{RATE}))", "{{id}}")),
        panel("Keys written meanwhile", "short", "Falls towards zero.",
              (f"max by (id) ({C}migration_dirty_keys)", "{{id}}")),
        panel("Behind the source", "bytes", "Falls towards zero; one that does not is written faster than it is copied.",
              (f"max by (id) ({C}migration_lag_bytes)", "{{id}}")),
        panel("Pause of clients", "s", "Milliseconds.", (f"max by (id) ({C}migration_pause_seconds)", "{{id}}")),
    ]),
]

CONTROL = [
    ("Members", [
        panel("Who leads", "none", "One line at 1; it seldom changes.", (f"{C}leading", "{{instance}}")),
        panel("Members that know the leader", "none", "1, each.", (f"{C}leader_known", "{{instance}}")),
        panel("Elections won", "none", "None for days.", (f"increase({C}leaderships_total{RATE})", "{{instance}}")),
        panel("Memory", "bytes", "Flat.", (f"{C}resident_memory_bytes", "{{instance}}")),
        panel("Up since", "dateTimeFromNow", "As of the last upgrade.", (f"{C}start_time_seconds * 1000", "{{instance}}"),
              kind="table"),
        panel("Versions", "none", "One version each, but for minutes of an upgrade.",
              (f"count by (version) ({C}build_info)", "configsvr {{version}}"),
              (f"count by (version) ({P}build_info)", "proxy {{version}}"), kind="table"),
    ]),
    ("The store", [
        panel("Reachable", "none", "1, each. 0: proxies serve on, nothing can be changed.",
              (f"{C}store_reachable", "{{instance}}")),
        panel("Revision", "none", "All members on one line.", (f"{C}store_revision", "{{instance}}")),
        panel("Records that are refused", "none", "0; more: somebody edited by hand.",
              (f"{C}store_invalid_records", "{{instance}}")),
        panel("Changes", "ops", "`done` when somebody works; `unavailable` never.",
              (rate(f"{C}changes_total", "result"), "{{result}}")),
        panel("Deeds", "ops", "Few `failed`; all of one kind failing is a machine that is away.",
              (rate(f"{C}deeds_total", "deed, result"), "{{deed}} {{result}}")),
    ]),
    ("The fleet", [
        panel("Epochs", "none", "All on one line.",
              (f"max by (proxy) ({C}proxy_topology_epoch)", "{{proxy}}"), (f"max({C}topology_epoch)", "control plane")),
        panel("Proxies behind", "none", "0 but for a moment.", (f"max({C}proxies_behind)", "behind")),
        panel("Since a heartbeat", "s", "Below 2 s.", (f"min by (proxy) ({C}proxy_beat_age_seconds)", "{{proxy}}")),
        panel("Proxies that did not take the topology", "none", "0, each.",
              (f"max by (proxy) ({C}proxy_push_failed)", "{{proxy}}")),
        panel("Slots of groups", "none", "Equal, or as you decided.", (f"max by (group) ({C}group_slots)", "group {{group}}"),
              stack=True),
        panel("Alarms", "none", "An empty table.",
              (f"max by (kind, subject) ({C}alarm_active)", "{{kind}} {{subject}}"), kind="table"),
    ]),
]

DASHBOARDS = [
    ("overview", "Twemslot: overview", "Whether all is well, and whether it is us or Redis.", OVERVIEW, []),
    ("proxy", "Twemslot: proxy", "What the proxies do, worker by worker.", PROXY, [PROXY_VARIABLE]),
    ("groups", "Twemslot: group and instance", "The groups as the proxies see them, and their instances.", GROUPS,
     [GROUP_VARIABLE]),
    ("changes", "Twemslot: migration and failover", "What moves, and what clients feel of it.", CHANGES, []),
    ("control", "Twemslot: control plane", "The members, their store, and who follows them.", CONTROL, []),
]


def variables(wanted):
    yield build.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
    for name, label, query in wanted:
        made = build.QueryVariable(name).label(label).datasource(DATASOURCE).query({"query": query, "refId": "variable"})
        made = made.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.NUMERICAL_ASC)
        made = made.multi(True).include_all(True).all_value(".*")
        yield made.current(VariableOption(selected=True, text=["All"], value=["$__all"]))


def lines(p):
    legend = build_common.VizLegendOptions().calcs(["lastNotNull", "max"]).show_legend(True)
    legend = legend.display_mode(common.LegendDisplayMode.TABLE).placement(common.LegendPlacement.BOTTOM)
    tooltip = build_common.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
    stacked = common.StackingMode.NORMAL if p["stack"] else common.StackingMode.NONE
    made = timeseries.Panel().draw_style(common.GraphDrawStyle.LINE).line_width(1).fill_opacity(30 if p["stack"] else 5)
    made = made.show_points(common.VisibilityMode.NEVER).span_nulls(False).axis_placement(common.AxisPlacement.AUTO).min(0)
    return made.stacking(build_common.StackingConfig().group("A").mode(stacked)).legend(legend).tooltip(tooltip)


def number(_):
    made = stats.Panel().color_mode(common.BigValueColorMode.VALUE).graph_mode(common.BigValueGraphMode.AREA)
    return made.reduce_options(build_common.ReduceDataOptions().calcs(["lastNotNull"]))


def rows_of(_):
    hidden = {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": {}}
    return table.Panel().show_header(True).with_transformation(DataTransformerConfig(id_val="organize", options=hidden))


KINDS = {"timeseries": lines, "stat": number, "table": rows_of}


def body(p, place):
    made = KINDS[p["kind"]](p).title(p["title"]).description(f"Good: {p['good']}").datasource(DATASOURCE).grid_pos(place)
    colors = FieldColorModeId.THRESHOLDS if p["kind"] == "stat" else FieldColorModeId.PALETTE_CLASSIC
    steps = build.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(p["steps"] or GREEN)
    made = made.unit(p["unit"]).color_scheme(build.FieldColor().mode(colors)).thresholds(steps)
    for ref, (expr, legend) in zip("ABCDEFGHIJ", p["targets"]):
        target = prometheus.Dataquery().expr(expr).ref_id(ref).legend_format(legend or "__auto").datasource(DATASOURCE)
        target = target.editor_mode(QueryEditorMode.CODE)
        instant = p["kind"] == "table"
        made = made.with_target(target.instant().format(PromQueryFormat.TABLE) if instant else target.range())
    return made


def panels(rows):
    """Each with its place: from left to right, and on the next line where there is no room."""
    y = 0
    for title, row in rows:
        yield build.Row(title).grid_pos(GridPos(h=1, w=24, x=0, y=y))
        y += 1
        x = height = 0
        for p in row:
            w, h = (4, 4) if p["kind"] == "stat" else (8, 8)
            if x + w > 24 or (height and h != height):
                x, y = 0, y + height
            yield body(p, GridPos(h=h, w=w, x=x, y=y))
            x, height = x + w, h
        y += height


def dashboard(name, title, description, rows, wanted):
    link = build.DashboardLink("Twemslot").type(DashboardLinkType.DASHBOARDS).tags(["twemslot"]).as_dropdown(True)
    made = build.Dashboard(title).uid(f"twemslot-{name}").description(description).tags(["twemslot"]).readonly()
    made = made.tooltip(DashboardCursorSync.CROSSHAIR).timezone("browser").refresh("5s").time("now-30m", "now")
    made = made.links([link.keep_time(True)])
    for variable in variables(wanted):
        made = made.with_variable(variable)
    made = made.build()
    # As they are given: the builder would set places of its own, and no numbers.
    made.panels = [p.build() for p in panels(rows)]
    for at, p in enumerate(made.panels, 1):
        p.id_val = at
    return json.loads(json.dumps(made, cls=JSONEncoder))


def faults(d):
    """What Grafana would stumble over, or a reader."""
    name, ids, taken = d["uid"], set(), set()
    known = {v["name"] for v in d["templating"]["list"]}
    for p in d["panels"]:
        where = f"{name}: {p['title']!r}"
        if p["id"] in ids:
            yield f"{where}: the id {p['id']} is another panel's"
        ids.add(p["id"])
        g = p["gridPos"]
        if g["x"] + g["w"] > 24:
            yield f"{where}: wider than the page"
        cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        if cells & taken:
            yield f"{where}: lies on another panel"
        taken |= cells
        if p["type"] == "row":
            continue
        good = p["description"].removeprefix("Good: ")
        if not p["description"].startswith("Good: ") or len(good) < 2 or "\n" in good:
            yield f"{where}: does not say in one line what good looks like"
        if not p["targets"]:
            yield f"{where}: shows nothing"
        for t in p["targets"]:
            for used in set(re.findall(r"\$\{?(\w+)", t["expr"])):
                if used not in known | {"__rate_interval"}:
                    yield f"{where}: uses the variable {used}, which is not there"
            if "rate(" in t["expr"] and "$__rate_interval" not in t["expr"]:
                yield f"{where}: a rate over a fixed time"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    wrong = []
    for spec in DASHBOARDS:
        made = dashboard(*spec)
        wrong += faults(made)
        text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
        path = HERE / "dashboards" / f"{spec[0]}.json"
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            wrong.append(f"{path.name}: is not what generate.py makes: run grafana/generate")
    for fault in wrong:
        print(fault, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
