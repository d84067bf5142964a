"""What servers say about their commands: asked over RESP2, kept in metadata.json.

Values are kept as JSON: a bulk string as itself, a simple string with a '+' before it, integers and arrays as such.
A bulk string that begins with '+' or '$' has a '$' before it, so that the two kinds stay apart.
"""

import json
import socket


class Server:
    """A connection to one server."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        try:
            self.socket = socket.create_connection((host or "127.0.0.1", int(port)), timeout=30)
        except (OSError, ValueError) as error:
            raise SystemExit(f"{address}: {error}; give HOST:PORT of a running server") from error
        self.stream = self.socket.makefile("rb")

    def call(self, *args):
        """Sends a request and returns its reply; an error reply is raised."""
        request = b"*%d\r\n" % len(args)
        for arg in args:
            arg = str(arg).encode()
            request += b"$%d\r\n%s\r\n" % (len(arg), arg)
        self.socket.sendall(request)
        reply = self.reply()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def reply(self):
        line = self.stream.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server closed the connection within a reply")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return "+" + rest.decode()
        if kind == b"-":
            return RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$" and int(rest) >= 0:
            text = self.stream.read(int(rest) + 2)[:-2].decode()
            return "$" + text if text[:1] in ("+", "$") else text
        if kind == b"*" and int(rest) >= 0:
            return [self.reply() for _ in range(int(rest))]
        return None


def pairs(flat):
    """A RESP2 map as a dict; keys keep their order."""
    return dict(zip(flat[::2], flat[1::2]))


def read(servers):
    """`servers`: (name, address) from the oldest to the newest. Returns what metadata.json holds."""
    metadata = {"servers": {}, "commands": {}, "docs": {}}
    for name, address in servers:
        server = Server(address)
        version, quotable = identity(server.call("INFO", "server"))
        metadata["servers"][name] = version
        for command in server.call("COMMAND"):
            add_command(metadata["commands"], name, command)
        documented = pairs(server.call("COMMAND", "DOCS"))
        for command, docs in documented.items():
            add_docs(metadata["docs"], command.lower(), pairs(docs), name, quotable)
    return metadata


def identity(info):
    """The server's version, and whether its texts may be copied: they may under the BSD licence, which Redis left
    with 7.4 and Valkey kept."""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    if fields.get("server_name") == "valkey":
        return "Valkey " + fields["valkey_version"], True
    version = fields["redis_version"]
    return "Redis " + version, tuple(int(n) for n in version.split(".")[:2]) < (7, 4)


def add_command(commands, server, reported):
    """Files what `server` reports under the command's name; servers that report the same share an entry."""
    name, facts = reported[0].lower(), reported[1:9]
    variants = commands.setdefault(name, [])
    for variant in variants:
        if variant[1] == facts:
            variant[0].append(server)
            break
    else:
        variants.append([[server], facts])
    for subcommand in reported[9] or []:
        add_command(commands, server, subcommand)


def add_docs(documented, name, docs, server, quotable):
    """Files documentation: of the newest server whose texts may be copied; of another one only facts, if no such
    server knows the command."""
    subcommands = pairs(docs.pop("subcommands", []))
    if not quotable:
        docs = {key: docs[key] for key in ("since", "group", "module", "arguments") if key in docs}
    if quotable or name not in documented:
        documented[name] = [server, [item for pair in docs.items() for item in pair]]
    for sub, sub_docs in subcommands.items():
        add_docs(documented, sub.lower(), pairs(sub_docs), server, quotable)


def save(metadata, path):
    """One command a line, so that a difference can be read."""
    def lines(table):
        dumps = (f"{json.dumps(key)}:{json.dumps(table[key], separators=(',', ':'))}" for key in sorted(table))
        return "{\n" + ",\n".join(dumps) + "\n}"

    with open(path, "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(f'"{part}":{lines(metadata[part])}' for part in metadata) + "\n}\n")


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def with_own(metadata, own):
    """`metadata` with the proxy's own commands, as if the newest server had reported them."""
    newest = list(metadata["servers"])[-1]
    for name, facts in own["commands"].items():
        metadata["commands"][name] = [[[newest], facts]]
    for name, docs in own["docs"].items():
        metadata["docs"][name] = [newest, docs]
    return metadata
