"""What programs spend, from /proc: CPU time to the nanosecond, resident memory, and what the machine does besides."""

import os
import re

TICK = os.sysconf("SC_CLK_TCK")


def family(pid):
    """`pid` and every process below it."""
    children = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        parent = _stat(entry)
        if parent:
            children.setdefault(int(parent[1]), []).append(int(entry))
    found = [pid]
    for member in found:
        found.extend(children.get(member, []))
    return found


def worker_of(pid):
    """The process that relays: the child of a master and worker pair, or the only process."""
    return family(pid)[-1]


class Cpu:
    """CPU time of some process trees up to now."""

    def __init__(self, *pids):
        self.threads, self.ticks = {}, {}
        for pid in {member for pid in pids for member in family(pid)}:
            stat = _stat(pid)
            if not stat:
                continue
            self.ticks[pid] = (int(stat[11]) + int(stat[12])) / TICK
            for thread in _list(f"/proc/{pid}/task"):
                on_cpu = _read(f"/proc/{pid}/task/{thread}/schedstat").split()
                if on_cpu:
                    self.threads[pid, thread] = int(on_cpu[0]) / 1e9

    def since(self, before):
        """Seconds between two readings. A thread that ended took its nanoseconds with it: then 10 ms ticks must do."""
        if set(before.threads) <= set(self.threads):
            return sum(s - before.threads.get(t, 0) for t, s in self.threads.items())
        return sum(s - before.ticks.get(p, 0) for p, s in self.ticks.items())


class Machine:
    """CPU time of the whole machine up to now: busy, and stolen by its host."""

    def __init__(self):
        words = [int(w) for w in _read("/proc/stat").split("\n", 1)[0].split()[1:9]]
        idle, iowait, steal = words[3], words[4], words[7]
        self.busy, self.steal = (sum(words) - idle - iowait - steal) / TICK, steal / TICK


def resident(pid):
    """Bytes of `pid` in memory, pages shared with others counted in part."""
    found = re.search(r"^Pss:\s+(\d+) kB", _read(f"/proc/{pid}/smaps_rollup"), re.M)
    if not found:
        raise ProcessLookupError(f"no process {pid} whose memory could be read")
    return int(found.group(1)) * 1024


def _stat(pid):
    """/proc/PID/stat after the name: state, parent, ...; None when it is gone."""
    text = _read(f"/proc/{pid}/stat")
    return text.rsplit(")", 1)[1].split() if text else None


def _read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _list(path):
    try:
        return os.listdir(path)
    except OSError:
        return []
