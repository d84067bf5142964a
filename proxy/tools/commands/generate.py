#!/usr/bin/env python3
"""Makes the proxy's command table from what servers report.

    generate.py                          the table again, from metadata.json, own.json and policy.txt; and the one in
                                         README.md
    generate.py NAME=HOST:PORT ...       asks these servers first, from the oldest to the newest, and keeps what they
                                         say in metadata.json and testdata/getkeys.txt
    generate.py --check HOST:PORT        compares testdata/getkeys.txt with what a server says now
    generate.py --from-files --out DIR   the table into another directory

Python 3.9 and its standard library are enough.
"""

import argparse
import pathlib
import sys

sys.dont_write_bytecode = True  # no __pycache__ in the source tree

import cases
import compatibility
import emit
import policy
import servers

HERE = pathlib.Path(__file__).resolve().parent
TARGET = HERE.parent.parent / "src" / "relay" / "command"
METADATA = HERE / "metadata.json"
OWN = HERE / "own.json"
CASES = pathlib.Path("testdata") / "getkeys.txt"
README = HERE.parent.parent.parent / "README.md"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", metavar="NAME=HOST:PORT", help="servers to ask, oldest first")
    parser.add_argument("--from-files", action="store_true", help="ask no server (the default when none is named)")
    parser.add_argument("--out", type=pathlib.Path, default=TARGET, help="where the generated files go")
    parser.add_argument("--check", metavar="HOST:PORT", help="compare getkeys.txt with this server, write nothing")
    options = parser.parse_args()
    if options.check:
        return cases.check(TARGET / CASES, options.check)
    named = [server.split("=", 1) for server in options.servers]
    if any(len(server) != 2 for server in named) or named and options.from_files:
        parser.error("servers are given as NAME=HOST:PORT, and not together with --from-files")
    if named:
        servers.save(servers.read(named), METADATA)
    metadata = servers.with_own(servers.load(METADATA), servers.load(OWN))
    table = emit.Table(metadata, policy.Policy(HERE / "policy.txt"))
    options.out.mkdir(parents=True, exist_ok=True)
    for name, content in emit.files(table).items():
        (options.out / name).write_bytes(content)
    commands = compatibility.markdown(table)
    if options.out == TARGET:
        README.write_text(compatibility.into(README.read_text(), commands))
    else:
        (options.out / "commands.md").write_text(commands)
    if named:
        cases.write(options.out / CASES, table, named)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
