"""Machines to deploy to: Debian with systemd and sshd, each in a network namespace, all on one bridge.

    h1..hN   10.0.0.11 ..., as in the example inventories; the control node, and the packages: 10.0.0.1, in the namespace of
             the bridge

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
CONTROL = "10.0.0.1"
VIP = "10.0.0.100"
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


def port(host):
    """Its end of the cable at the bridge."""
    return f"p{host}"


def base_system(work):
    """The system all hosts share; made once."""
    tar = work / "base.tar"
    if not tar.exists():
        part = work / "base.part.tar"
        sh(["mmdebstrap", "--variant=minbase", f"--include={INCLUDE}", "bookworm", str(part)])
        part.rename(tar)
    root = work / "base"
    sources = f"deb [trusted=yes] http://{CONTROL}:{PACKAGES_PORT} ./\n"
    if not (root / "done").exists() or (root / "etc/apt/sources.list").read_text() != sources:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        sh(["tar", "-xf", str(tar), "-C", str(root), "--exclude=./dev/*"])
        (root / "etc/hostname").unlink(missing_ok=True)
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
    """All machines of a test: their names and addresses, in 10.0.0.0/16."""

    def __init__(self, work, addresses, packages):
        self.work = pathlib.Path(work)
        self.addresses, self.names = addresses, list(addresses)
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
            f" && ip -n {SWITCH} addr add {CONTROL}/16 dev br0 && ip -n {SWITCH} link set br0 up"
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
            f" && ip link add name eth0 netns {space} type veth peer name {port(host)} netns {SWITCH}"
            f" && ip -n {SWITCH} link set {port(host)} master br0 up"
            f" && ip -n {space} addr add {self.addresses[host]}/16 dev eth0 && ip -n {space} link set eth0 up"
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
        done = subprocess.run([*line, f"root@{self.addresses[host]}", command], text=True, capture_output=True)
        if check and done.returncode:
            raise RuntimeError(f"{host}: {command}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def wait_for(self, host):
        deadline = time.monotonic() + 60
        while not self.ssh(host, "systemctl is-system-running", check=False).startswith(("running", "degraded")):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{host} does not boot: see {self.work}/{host}.console")
            time.sleep(0.2)

    def cut(self, host, how="cable"):
        """The host lives, and nobody hears it. `cable`: it is pulled, which the host sees; `switch`: nothing comes through."""
        if how == "cable":
            sh(f"ip -n {SWITCH} link set {port(host)} down")
        else:
            sh(f"ip netns exec {SWITCH} bridge link set dev {port(host)} state 0")

    def has_vip(self, host):
        """Also of a host that is cut off."""
        return f" {VIP}/" in sh(f"ip -n {PREFIX}{host} -4 addr show dev eth0")

    def heal(self, host, how="cable"):
        if how == "cable":
            sh(f"ip -n {SWITCH} link set {port(host)} up")
        else:
            sh(f"ip netns exec {SWITCH} bridge link set dev {port(host)} state 3")

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
        for space in self.left():
            self.kill_left(space)
            host = space.removeprefix(PREFIX)
            quietly(f"umount -l {self.work}/{host}/root; rm -rf --one-file-system {self.work}/{host}")
            quietly(f"ip netns del {space}; rmdir /sys/fs/cgroup/*/{space}")

    def left(self):
        """Namespaces that are there, also those of a run with other machines; the bridge's is the last."""
        spaces = [line.split()[0] for line in sh("ip netns list").splitlines()]
        return sorted((s for s in spaces if s.startswith(PREFIX)), key=lambda s: s == SWITCH)

    def kill_left(self, space):
        """Processes of a run that was broken off."""
        listed = subprocess.run(f"ip netns pids {space}", shell=True, text=True, capture_output=True).stdout
        for pid in listed.split():
            quietly(f"kill -9 {pid}")
