// Asks the API every two seconds and draws what it says. Text goes into the page as text only, never as markup.
"use strict";

const EVERY_MS = 2000;
const ROWS_MAX = 15;
const COLOURS = 8;

const byId = (id) => document.getElementById(id);

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

class Refused extends Error {}

async function ask(path) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { headers, cache: "no-store" });
  const said = await answer.json();
  if (answer.status === 401 || answer.status === 403 || answer.status === 429) throw new Refused(said.error?.message ?? "a token is needed");
  if (!answer.ok) throw new Error(said.error?.message ?? `${path}: status ${answer.status}`);
  return said;
}

// A cell: text, [text, class], or an element.
function cell(value) {
  const made = element("td");
  if (value instanceof Element) made.append(value);
  else if (Array.isArray(value)) { made.textContent = value[0]; made.className = value[1]; }
  else { made.textContent = value ?? ""; if (typeof value === "number") made.className = "number"; }
  return made;
}

function table(id, heads, rows, none) {
  const head = element("tr");
  heads.forEach((text) => head.append(element("th", text)));
  const lines = rows.map((row) => { const line = element("tr"); row.forEach((value) => line.append(cell(value))); return line; });
  if (!lines.length) { const line = element("tr"); const empty = element("td", none); empty.colSpan = heads.length; line.append(empty); lines.push(line); }
  byId(id).replaceChildren(head, ...lines);
}

const bytes = (n) => {
  if (n === null || n === undefined) return "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) { n /= 1024; at += 1; }
  return `${n.toFixed(at ? 1 : 0)} ${units[at]}`;
};
const time = (ms) => (ms ? new Date(ms).toLocaleTimeString() : "");
const ranges = (some) => some.map((r) => (r.from === r.to ? `${r.from}` : `${r.from}-${r.to}`)).join(",");
const short = (text, most) => (text.length > most ? `${text.slice(0, most)}...` : text);

function summary(cluster) {
  const alive = cluster.proxies.filter((p) => p.alive).length;
  const words = cluster.created
    ? `${cluster.name}: epoch ${cluster.epoch}, ${cluster.groups.length} groups, ${alive} of ${cluster.proxies.length} proxies, led by ${cluster.leader ?? "nobody"}`
    : "there is no cluster yet: twemslotctl cluster create";
  byId("summary").textContent = words;
}

function trouble(cluster) {
  const said = [
    ...cluster.problems.map((p) => (typeof p === "string" ? p : p.message ?? JSON.stringify(p))),
    ...cluster.alarms.map((a) => a.message ?? JSON.stringify(a)),
    ...cluster.invalid.map((i) => (typeof i === "string" ? i : JSON.stringify(i))),
  ];
  if (!cluster.leader) said.unshift("nobody leads the control plane");
  if (cluster.store.fault) said.unshift(`the store: ${cluster.store.fault}`);
  byId("trouble").hidden = said.length === 0;
  byId("trouble").querySelector("ul").replaceChildren(...[...new Set(said)].map((text) => element("li", text)));
}

const colour = (group) => (group ? `c${(group - 1) % COLOURS}` : "none");

function slots(map, groups) {
  const parts = map.ranges.map((range) => {
    const part = element("div", null, `${colour(range.group)}${range.state === "normal" ? "" : " held"}`);
    part.style.flexGrow = String(range.to - range.from + 1);
    part.title = `${range.from}-${range.to}: ${range.group ? `group ${range.group}` : "nobody"}, ${range.state}`;
    return part;
  });
  byId("slots").replaceChildren(...parts);
  byId("legend").replaceChildren(...groups.map((group) => {
    const entry = element("span");
    entry.append(element("i", null, colour(group.id)), `${group.name}: ${group.slots}`);
    return entry;
  }));
}

function groups(all, instances) {
  const rows = [];
  for (const group of all) {
    for (const i of instances.filter((one) => one.group === group.id)) {
      const up = i.verdict === "up";
      const state = up ? (i.role === "replica" && i.link_up === false ? ["not linked", "warn"] : ["up", "good"]) : [i.verdict, "bad"];
      const load = i.load ?? {};
      const memory = load.memory_max_bytes ? `${bytes(load.memory_bytes)} of ${bytes(load.memory_max_bytes)}` : bytes(load.memory_bytes);
      rows.push([group.name, i.addr, i.role, state, load.keys, memory, load.clients, i.offset, i.version, i.fault ?? ""]);
    }
  }
  table("groups", ["Group", "Instance", "Role", "State", "Keys", "Memory", "Clients", "Offset", "Version", ""], rows, "no groups yet");
}

function proxies(cluster) {
  const rows = cluster.proxies.map((p) => {
    const state = !p.alive ? ["away", "bad"] : p.draining ? ["draining", "warn"] : ["alive", "good"];
    const epoch = p.epoch === cluster.epoch ? p.epoch : [`${p.epoch}, behind`, "warn"];
    return [p.id, p.addr, p.zone, state, epoch, p.version, p.push_fault ?? ""];
  });
  table("proxies", ["Proxy", "Address", "Zone", "State", "Epoch", "Version", ""], rows, "none has registered");
}

function members(cluster) {
  const rows = cluster.members.map((m) => [
    m.name, m.addr, m.leader ? "leader" : m.voter ? "voter" : "learner",
    m.reachable === false ? ["cannot be reached", "bad"] : ["reachable", "good"], m.behind,
  ]);
  table("members", ["Member", "Address", "Part", "State", "Entries behind"], rows, "");
}

function migrations(all) {
  const rows = [...all].sort((a, b) => b.id - a.id).slice(0, ROWS_MAX).map((m) => {
    const bar = element("progress");
    bar.max = Math.max(1, m.progress?.to_scan ?? 1);
    bar.value = m.phase === "done" ? bar.max : m.progress?.scanned ?? 0;
    const phase = m.trouble ? [short(m.trouble, 80), "bad"] : m.paused ? ["paused", "warn"] : m.stage ?? m.phase;
    const audit = m.audit ? (m.audit.missing + m.audit.different + m.audit.extra === 0 ? ["equal", "good"] : ["differs", "bad"]) : "";
    return [m.id, `${m.from} -> ${m.to}`, short(ranges(m.slots), 40), phase, bar, m.tally?.keys, bytes(m.tally?.bytes), m.tally ? `${m.tally.pause_ms} ms` : "", audit];
  });
  table("migrations", ["ID", "Groups", "Slots", "Phase", "", "Keys", "Bytes", "Held", "Audit"], rows, "none");
}

function failovers(all) {
  const rows = [...all].sort((a, b) => (a.id < b.id ? 1 : -1)).slice(0, ROWS_MAX).map((f) => {
    const took = f.times.committed ? `${f.times.committed - f.times.doubted} ms` : "";
    const lost = f.lost_bytes ? [`${f.lost_bytes} bytes`, "warn"] : f.lost_bytes === 0 ? "0" : "";
    return [time(f.times.decided), f.group_id, f.kind, f.phase, f.old, f.candidate ?? "", took, lost, f.why];
  });
  table("failovers", ["At", "Group", "Kind", "Phase", "From", "To", "Took", "Lost", "Why"], rows, "none");
}

function audit(all) {
  const rows = all.slice(0, ROWS_MAX).map((a) => [time(a.at), a.who, a.what, `${a.epoch_before} -> ${a.epoch_after}`]);
  table("audit", ["At", "Who", "What", "Epoch"], rows, "none");
}

async function draw() {
  const cluster = await ask("/api/v1/cluster?leader=true");
  summary(cluster);
  trouble(cluster);
  members(cluster);
  proxies(cluster);
  if (!cluster.created) return;
  const [map, instances, moves, changes, trail] = await Promise.all([
    ask("/api/v1/slots"), ask("/api/v1/instances?leader=true"), ask("/api/v1/migrations?leader=true"),
    ask("/api/v1/failovers"), ask("/api/v1/audit?limit=15"),
  ]);
  slots(map, cluster.groups);
  groups(cluster.groups, instances);
  migrations(moves);
  failovers(changes);
  audit(trail);
}

let timer;
async function turn() {
  clearTimeout(timer);
  try {
    await draw();
    byId("login").hidden = true;
  } catch (error) {
    byId("summary").textContent = error.message;
    if (error instanceof Refused) {
      // Not again and again with a token that is wrong: this address would be locked out.
      byId("login").hidden = false;
      return;
    }
  }
  timer = setTimeout(turn, document.hidden ? EVERY_MS * 5 : EVERY_MS);
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", byId("token").value);
  byId("token").value = "";
  turn();
});
turn();
