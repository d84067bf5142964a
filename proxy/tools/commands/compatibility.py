"""The table of README.md: every command, how it is served, and if it is not, why."""

import re

BEGIN = "<!-- Made by proxy/tools/commands/generate.py from the command table: do not edit. -->\n"
END = "<!-- End of what generate.py makes. -->\n"
# Commands that the documentation puts into these groups, in the order of the table; others follow.
GROUPS = ["string", "hash", "list", "set", "sorted-set", "stream", "bitmap", "geo", "hyperloglog", "generic",
          "transactions", "pubsub", "scripting", "connection", "server", "cluster"]
KEYED = "keyed"
COUNT = "counts each client of the worker that answers, and another worker or proxy as one"
SPLIT = {"Mget": "split, values in the order asked", "Mset": "split", "Count": "split, added up"}
FAN = {
    "Ok": "every group",
    "ConfigGet": "the first group, without passwords",
    "Each": "every group",
    "ScriptLoad": "every group",
    "ScriptFlush": "every group",
    "Least": "every group; 1 where all have it",
    "Any": "every group; the first that has it",
    "First": "the first group",
    "NumSub": f"the first group; {COUNT}",
    "Kill": "every group, beside what runs there; OK if one says so",
    "Stats": "every group, beside what runs there; the one that is busy",
    "Keys": "every group, joined",
    "RandomKey": "every group, one by chance",
    "Size": "every group, added up; copies that a move of slots leaves do not count",
    "Scan": "one group after another",
}
SESSION = {
    "Watch": "keyed, on a connection of the client's own; all keys in one slot",
    "Exec": "in one piece to the owner of its one slot",
    "Wait": "every group; the least",
    "WaitAof": "every group; the least",
    "Subscribe": "every group, once for all clients of a worker",
    "Psubscribe": "every group, once for all clients of a worker",
    "Ssubscribe": "every group, once for all clients of a worker",
}
# What is true of one command among those that are served alike.
NOTES = {
    "client|no-touch": "`ON` is refused: many clients share a connection to an instance, which would then keep the mark for all of them",
}
CONTAINER = 'Denied("it needs a subcommand")'


def how(serve):
    """A place of the table as words for people."""
    kind, _, text = serve.partition("(")
    text = text.removesuffix(")")
    if kind == "Keyed":
        return KEYED
    if kind == "Blocking":
        return "keyed, on a connection of the client's own"
    if kind == "Publish":
        return f"the owner of the channel's slot; {COUNT}"
    if kind == "Session":
        return SESSION.get(text.split("::")[1], "by the proxy, for this connection")
    if kind == "Local":
        return "by the proxy"
    if kind in ("Split", "Fan"):
        words = {"Split": SPLIT, "Fan": FAN}[kind]
        name = text.split("::")[1]
        if name not in words:
            raise SystemExit(f"compatibility.py: say what {serve} means")
        return words[name]
    reason = text.strip('"')
    return f"no: {reason}"


def names(table):
    """Every command as people type it, with the command it stands for. A container none of whose subcommands differs
    is one; one that is nothing by itself is left out."""
    for name in table.names:
        parent = name.split("|")[0]
        subs = table.subcommands(parent)
        alike = len({table.serve[sub] for sub in subs} | {table.serve[parent]}) == 1
        typed = name.upper().replace("|", " ")
        if name == parent and subs and alike:
            yield f"{typed} ...", name
        elif name == parent and table.serve[name] == CONTAINER or name != parent and alike:
            continue
        else:
            yield typed, name


def group_of(table, name):
    name = name.split("|")[0]
    flat = table.docs[name][1]
    word = table.policy.word(name, "group") or dict(zip(flat[::2], flat[1::2])).get("group", "vector sets")
    return word if word != "module" else "vector sets"


def markdown(table):
    """The part of README.md from BEGIN to END."""
    rows = {}
    for typed, name in names(table):
        group = group_of(table, name)
        place = GROUPS.index(group) if group in GROUPS else len(GROUPS)
        words = "; ".join([how(table.serve[name]), *filter(None, [NOTES.get(name)])])
        rows.setdefault((place, group, words.startswith("no:"), words != KEYED, words), []).append(typed)
    lines = ["| | commands | served |", "|---|---|---|"]
    before = None
    for (_, group, _, _, words), typed in sorted(rows.items()):
        shown = "" if group == before else group.replace("-", " ")
        lines.append(f"| {shown} | {', '.join(f'`{name}`' for name in typed)} | {words} |")
        before = group
    return BEGIN + "\n".join(lines) + "\n" + END


def into(readme, text):
    """`readme` with the part between the marks replaced."""
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    replaced, count = re.subn(pattern, lambda _: text, readme, flags=re.DOTALL)
    if count != 1:
        raise SystemExit("README.md: the marks of the command table are not there once")
    return replaced
