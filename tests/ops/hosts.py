"""Machines to deploy to: Debian with systemd and sshd, each in a network namespace, all on one bridge.

    h1..hN   10.77.0.11 ...      the control node, and the packages: 10.77.0.1, in the namespace of the bridge

A host is systemd-nspawn on an overlay over one base system: it boots in two seconds, and needs nothing but root.
What is not as on a machine: the kernel and its limits of memory are shared, vm.* cannot be set.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

PREFIX = "twops-"
SWITCH = PREFIX + "sw"
NET = "10.77.0."
CONTROL = NET + "1"
VIP = NET + "100"
PACKAGES_PORT = 24099
INCLUDE = (
    "systemd,systemd-sysv,dbus,iproute2,python3-minimal,python3-apt,openssh-server,procps,ca-certificates,"
    "iputils-ping,adduser"
)


def sh(command, **more):
    """Runs a command, and says what it said when it fails."""
    done = subprocess.run(command, shell=isinstance(command, str), text=True, capture_output=True, **more)
    if done.returncode:
        raise RuntimeError(f"{command}: status {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def quietly(command):
    """Runs what may fail, as taking down what is not there."""
    subprocess.run(command, shell=True, capture_output=True)


def address(host):
    return NET + str(10 + int(host[1:]))


def base_system(work):
    """The system all hosts share; made once."""
    tar = work / "base.tar"
    if not tar.exists():
        part = work / "base.part.tar"
        sh(["mmdebstrap", "--variant=minbase", f"--include={INCLUDE}", "bookworm", str(part)])
        part.rename(tar)
    root = work / "base"
    if not (root / "done").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        sh(["tar", "-xf", str(tar), "-C", str(root), "--exclude=./dev/*"])
        (root / "etc/hostname").unlink(missing_ok=True)
        sources = f"deb [trusted=yes] http://{CONTROL}:{PACKAGES_PORT} ./\n"
        (root / "etc/apt/sources.list").write_text(sources)
        # What it knows of other archives is old: the first role asks again.
        lists = root / "var/lib/apt/lists"
        shutil.rmtree(lists)
        lists.mkdir()
        os.utime(lists, (0, 0))
        (root / "done").touch()
    return root


def package_pool(work, root, packages):
    """An archive with these packages and all they need beyond the base system; made once."""
    pool, wanted = work / "pool", " ".join(sorted(packages))
    if (pool / "done").exists() and (pool / "done").read_text() == wanted:
        return pool
    pool.mkdir(exist_ok=True)
    status = root / "var/lib/dpkg/status"
    uris = sh(
        f"apt-get install -y --no-install-recommends --print-uris -o Dir::State::status={status} {wanted}"
        " | sed -n \"s/^'\\([^']*\\)' \\([^ ]*\\) .*/\\2/p\""
    )
    names = [line.split("_")[0] for line in uris.split()]
    missing = [n for n in names if not list(pool.glob(n + "_*.deb"))]
    if missing:
        sh(["apt-get", "-q", "download", *missing], cwd=pool)
    (pool / "Packages").write_text(sh("dpkg-scanpackages -m . 2>/dev/null", cwd=pool))
    (pool / "done").write_text(wanted)
    return pool


class Hosts:
    """All machines of a test."""

    def __init__(self, work, count, packages):
        self.work = pathlib.Path(work)
        self.names = [f"h{n}" for n in range(1, count + 1)]
        self.machines = {}
        self.work.mkdir(parents=True, exist_ok=True)
        self.base = base_system(self.work)
        self.pool = package_pool(self.work, self.base, packages)
        self.key = self.work / "key"
        if not self.key.exists():
            sh(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)])
        self.server = None

    def up(self):
        self.down()
        sh(
            f"ip netns add {SWITCH} && ip -n {SWITCH} link set lo up"
            f" && ip -n {SWITCH} link add br0 type bridge stp_state 0 forward_delay 0"
            f" && ip -n {SWITCH} addr add {CONTROL}/24 dev br0 && ip -n {SWITCH} link set br0 up"
        )
        serve = [sys.executable, "-m", "http.server", "--bind", CONTROL, str(PACKAGES_PORT)]
        self.server = subprocess.Popen(
            ["ip", "netns", "exec", SWITCH, *serve], cwd=self.pool, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for host in self.names:
            self.plug(host)
            self.boot(host)
        for host in self.names:
            self.wait_for(host)

    def plug(self, host):
        """A cable from the host to the bridge."""
        space = PREFIX + host
        sh(
            f"ip netns add {space} && ip -n {space} link set lo up"
            f" && ip link add name eth0 netns {space} type veth peer name p{host} netns {SWITCH}"
            f" && ip -n {SWITCH} link set p{host} master br0 up"
            f" && ip -n {space} addr add {address(host)}/24 dev eth0 && ip -n {space} link set eth0 up"
            f" && ip -n {space} route add default via {CONTROL}"
        )

    def boot(self, host):
        home = self.work / host
        for part in ("upper", "overlay", "root"):
            (home / part).mkdir(parents=True, exist_ok=True)
        ssh = home / "upper" / "root" / ".ssh"
        ssh.mkdir(parents=True, exist_ok=True)
        shutil.copy(f"{self.key}.pub", ssh / "authorized_keys")
        layers = f"lowerdir={self.base},upperdir={home}/upper,workdir={home}/overlay"
        sh(f"mount -t overlay overlay -o {layers} {home}/root")
        group = f"{PREFIX}{host}"
        script = (
            f"for c in systemd unified; do [ -d /sys/fs/cgroup/$c ] || continue; mkdir -p /sys/fs/cgroup/$c/{group};"
            f" echo $$ > /sys/fs/cgroup/$c/{group}/cgroup.procs; done; "
            "exec env SYSTEMD_NSPAWN_API_VFS_WRITABLE=network systemd-nspawn --quiet --boot"
            f" -D {home}/root --machine={group} --hostname={host} --register=no --keep-unit"
            f" --network-namespace-path=/run/netns/{PREFIX}{host} --resolv-conf=off --console=pipe"
            " --capability=CAP_NET_ADMIN,CAP_NET_RAW"
        )
        log = open(self.work / f"{host}.console", "w")
        self.machines[host] = subprocess.Popen(["bash", "-c", script], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ssh(self, host, command, check=True):
        options = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        line = ["ip", "netns", "exec", SWITCH, "ssh", *options.split(), "-o", "ConnectTimeout=3", "-i", str(self.key)]
        done = subprocess.run([*line, f"root@{address(host)}", command], text=True, capture_output=True)
        if check and done.returncode:
            raise RuntimeError(f"{host}: {command}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def wait_for(self, host):
        deadline = time.monotonic() + 60
        while not self.ssh(host, "systemctl is-system-running", check=False).startswith(("running", "degraded")):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{host} does not boot: see {self.work}/{host}.console")
            time.sleep(0.2)

    def cut(self, host):
        """Pulls the cable: the host lives, and nobody hears it."""
        sh(f"ip -n {SWITCH} link set p{host} down")

    def heal(self, host):
        sh(f"ip -n {SWITCH} link set p{host} up")

    def down(self):
        """Takes away all there is, also of a run that was broken off."""
        for machine in self.machines.values():
            machine.send_signal(signal.SIGTERM)
        for host, machine in self.machines.items():
            try:
                machine.wait(20)
            except subprocess.TimeoutExpired:
                machine.kill()
        self.machines.clear()
        if self.server:
            self.server.terminate()
            self.server.wait()
            self.server = None
        for host in self.names:
            self.kill_left(host)
            quietly(f"umount -l {self.work}/{host}/root; rm -rf --one-file-system {self.work}/{host}")
            quietly(f"ip netns del {PREFIX}{host}; rmdir /sys/fs/cgroup/*/{PREFIX}{host}")
        quietly(f"ip netns del {SWITCH}")

    def kill_left(self, host):
        """Processes of this host's own namespace, of a run that was broken off."""
        for space in (PREFIX + host, SWITCH):
            listed = subprocess.run(f"ip netns pids {space}", shell=True, text=True, capture_output=True).stdout
            for pid in listed.split():
                quietly(f"kill -9 {pid}")
