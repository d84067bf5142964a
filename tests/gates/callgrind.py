"""User-space instructions, and calls of allocators, per request: exact on any machine, however busy.

The program runs under callgrind. A load is sent twice, with N and then with more requests, and callgrind writes a part
file after each: their difference is what the additional requests cost, free of connecting and of starting up. Of
several threads the busiest counts: in production it is the only one of its process (`Threads: 1`). So what glibc does
around calls in a process of several threads, and spares one of one, is left out.
"""

import re
import subprocess
import time

from programs import Unusable

FEW, MANY = 4000, 24000
PART_SECONDS = 60
# Whatever the allocator: Rust's entry points, mimalloc's, and C's.
ALLOCATES = re.compile(r"__rust_(re)?alloc|^mi_\w*alloc|^(m|c|re|aligned_)alloc$|^(posix_)?memalign$")
OF_THREADS = re.compile(r"__pthread_(en|dis)able_asynccancel$")
INSIDE_ALLOCATOR = re.compile(r"__r(ust|g|dl)_\w*alloc|^_?mi_|^mimalloc|^(m|c|re)alloc$|^_int_|^sysmalloc")


class Callgrind:
    """A program run by `stage_start(wrapper)` under callgrind, not yet ready."""

    def __init__(self, directory, name, stage_start):
        self.out = directory / f"{name}.callgrind"
        for old in directory.glob(f"{self.out.name}*"):
            old.unlink()
        wrapper = ["valgrind", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={self.out}"]
        self.program = stage_start(wrapper).wait_ready(120)
        self.parts = 0

    def cost(self, load, keys):
        """Instructions and allocator calls per request under this load."""
        few, many = (n // max(1, load.keys_per_request // 10) for n in (FEW, MANY))
        load.check(self.program.port)
        load.run(self.program.port, many, keys)  # warm: buffers have their size, for as many at once as there will be
        self.part()
        load.run(self.program.port, few, keys)
        first = self.part()
        load.run(self.program.port, many, keys)
        second = self.part()
        return ((instructions(second) - instructions(first)) / (many - few),
                (allocations(second) - allocations(first)) / (many - few))

    def part(self):
        """Has callgrind write what was spent since the last part; the busiest thread's file."""
        self.parts += 1
        asked = subprocess.run(["callgrind_control", "--dump", str(self.program.pid)], capture_output=True, text=True)
        deadline = time.monotonic() + PART_SECONDS
        while time.monotonic() < deadline:
            threads = list(self.out.parent.glob(f"{self.out.name}.{self.parts}-*"))
            if threads and all(instructions(t) is not None for t in threads):
                return max(threads, key=instructions)
            time.sleep(0.05)
        raise Unusable(f"callgrind wrote no part {self.parts}: {asked.stdout}{asked.stderr}{self.program.tail()}")


def instructions(path):
    """None: the file is not complete."""
    text = path.read_text(errors="replace")
    total = re.search(r"^totals: (\d+)", text, re.M)
    return int(total.group(1)) - _spent_in(OF_THREADS, text) if total else None


def _spent_in(functions, text):
    """Instructions of these functions themselves."""
    spent, names, caller, called = 0, {}, "", False
    for line in text.splitlines():
        if line.startswith("fn="):
            caller = _name(line[3:], names)
        elif line.startswith("cfn="):
            _name(line[4:], names)
        elif line.startswith("calls="):
            called = True
        elif line and line[0] in "0123456789+-*":
            if not called and functions.match(caller):
                spent += int(line.split()[-1])
            called = False
    return spent


def allocations(path):
    """Calls into an allocator from outside of it."""
    names, caller, callee, calls = {}, "", "", 0
    for line in path.open(errors="replace"):
        if line.startswith("fn="):
            caller = _name(line[3:], names)
        elif line.startswith("cfn="):
            callee = _name(line[4:], names)
        elif line.startswith("calls=") and ALLOCATES.search(callee) and not INSIDE_ALLOCATOR.search(caller):
            calls += int(line[6:].split()[0])
    return calls


def _name(text, names):
    """Callgrind writes `(7) main` once and `(7)` from then on."""
    number, _, name = text.strip().partition(" ")
    if name:
        names[number] = name
    return names.get(number, "")
