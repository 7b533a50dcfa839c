"""Machines as near to VMs as one box gets: Debian with systemd as PID 1, sshd, a container engine of their own.

Each has network, process, mount, host name and control group namespaces (`vm_boot.sh`), an address on a switch, and a
disk that stays over a reboot; what it shares with the box is the kernel. `Lab.close` leaves nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
BOOT = Path(__file__).with_name("vm_boot.sh")
SWITCH = "sk8v-switch"
USER = "admin"
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "rsync", "iproute2", "procps", "ca-certificates"),
    *("python3", "python3-venv", "docker.io", "containerd", "runc", "nftables", "libnftables1", "conntrack"),
    *("mmdebstrap", "busybox-static", "e2fsprogs", "util-linux", "mount", "curl", "kmod"),
)
NOT_CARRIED = (".git", ".venv", "build", "__pycache__", ".hypothesis", ".mypy_cache", ".ruff_cache", ".pytest_cache")
_ENVIRONMENT = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "http_proxy", "https_proxy", "no_proxy")


def run(*command: str | Path, check: bool = True, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
    """Raises AssertionError with what it said."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=timeout_s)
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return done


def eventually(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.5)


# -- the disk that all begin with ------------------------------------------------------------------------------------
def bare_root(directory: Path, packages: tuple[str, ...] = ("ca-certificates", "systemd", "sudo", "rsync")) -> Path:
    """Debian 12 with hardly anything, as a cloud's image begins."""
    directory.mkdir(parents=True)
    tar = directory.with_suffix(".tar")
    run("mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}", "bookworm", tar)
    run("tar", "-C", directory, "-xf", tar)
    tar.unlink()
    for file in ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf"):
        if Path(file).exists():
            shutil.copy(file, f"{directory}{file}")
    keep = " ".join(_ENVIRONMENT)  # how this box reaches the package indexes
    (directory / "etc/sudoers.d").mkdir(exist_ok=True)
    (directory / "etc/sudoers.d/environment").write_text(f'Defaults env_keep += "{keep}"\n')
    return directory


def set_up(root: Path, command: str) -> subprocess.CompletedProcess[str]:
    """A setup command of `ray up` in `root`, after the checkout was carried there as `ray up` does it."""
    checkout = root / "root" / "sk8"
    checkout.mkdir(parents=True, exist_ok=True)
    run("rsync", "-a", *(f"--exclude={name}" for name in NOT_CARRIED), f"{CHECKOUT}/", f"{checkout}/")
    kept = [f"{k}={os.environ[k]}" for k in _ENVIRONMENT if k in os.environ]
    inside = (
        f"mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev && exec chroot {root} bash -lc '{command}'"
    )
    return run(
        *("env", "-i", "HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *kept),
        *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "bash", "-c", inside),
        timeout_s=1500,
    )


def base_root() -> Path:
    """A disk with Debian's and Python's packages on it already, kept under build/ until the recipe or they change."""
    recipe = hashlib.sha256(repr(PACKAGES).encode())
    for file in ("requirements.lock", "pyproject.toml", "infra/bootstrap.sh", "tests/support/vm_lab.py"):
        recipe.update((CHECKOUT / file).read_bytes())
    root = CHECKOUT / "build" / "vm-root" / recipe.hexdigest()[:12]
    if not (root / "complete").exists():
        shutil.rmtree(root.parent, ignore_errors=True)
        bare_root(root, PACKAGES)
        set_up(root, "sudo ~/sk8/infra/ray/setup.sh")
        run("chroot", root, "useradd", "-m", "-s", "/bin/bash", USER)
        (root / "etc/sudoers.d/admin").write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
        shutil.rmtree(root / "root" / "sk8")
        (root / "complete").touch()
    return root


# -- machines --------------------------------------------------------------------------------------------------------
@dataclass
class Vm:
    """`init` is its PID 1, seen from the box; 0 while it is off."""

    name: str
    ip: str
    scratch: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def netns(self) -> str:
        return f"sk8v-{self.name}"


class Lab:
    """A switch, the machines on it, and this box beside them as `box_ip`, with a key to log in with."""

    def __init__(self, scratch: Path, network: str = "10.87.99") -> None:
        self._base = base_root()
        self._scratch = scratch
        self._network = network
        self.box_ip = f"{network}.1"
        self.key = scratch / "id_ed25519"
        self.vms: dict[str, Vm] = {}
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        run("ip", "netns", "add", SWITCH)
        run("ip", "-n", SWITCH, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", SWITCH, "link", "set", "br0", "up")
        self._cable("sk8v-box", None, self.box_ip)

    def add(self, name: str, number: int) -> Vm:
        vm = Vm(name, f"{self._network}.{number}", self._scratch / name)
        self.vms[name] = vm
        run("ip", "netns", "add", vm.netns)
        run("ip", "-n", vm.netns, "link", "set", "lo", "up")
        self._cable("eth0", vm.netns, vm.ip)
        run("ip", "-n", vm.netns, "route", "add", "default", "via", self.box_ip)
        home = vm.scratch / "upper" / "home" / USER / ".ssh"
        home.mkdir(parents=True)
        shutil.copy(f"{self.key}.pub", home / "authorized_keys")
        owner = (self._base / "home" / USER).stat()
        for path in (home.parent, home, home / "authorized_keys"):
            os.chown(path, owner.st_uid, owner.st_gid)
            path.chmod(0o600 if path.is_file() else 0o700)
        self.boot(vm)
        return vm

    def boot(self, vm: Vm) -> None:
        enter = ("nsenter", f"--net=/run/netns/{vm.netns}")
        log = (vm.scratch / "console.log").open("ab")
        vm.process = subprocess.Popen(
            [*enter, str(BOOT), str(self._base), str(vm.scratch), vm.name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()

    def power_off(self, vm: Vm) -> None:
        """As if the cord was pulled: nothing is stopped in order."""
        if vm.process is not None:
            os.killpg(vm.process.pid, signal.SIGKILL)
            vm.process.wait(30)
            vm.process = None
            eventually(lambda: not _in_cgroup(vm), 30, f"{vm.name} is off")

    def ssh(self, vm: Vm, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=30")
        login = ("ssh", "-i", self.key, *(part for o in options for part in ("-o", o)), f"{USER}@{vm.ip}")
        return run(*login, command, check=check, timeout_s=300)

    def close(self) -> None:
        for vm in self.vms.values():
            self.power_off(vm)
            run("ip", "netns", "delete", vm.netns, check=False)
            for group in _cgroups(vm):
                for directory, _, _ in os.walk(group, topdown=False):
                    os.rmdir(directory)
        run("ip", "link", "delete", "sk8v-box", check=False)
        run("ip", "netns", "delete", SWITCH, check=False)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _cable(self, name: str, netns: str | None, ip: str) -> None:
        port = f"p{ip.rpartition('.')[2]}"
        made = name if netns is None else f"v{port}"
        run("ip", "link", "add", made, "type", "veth", "peer", "name", port, "netns", SWITCH)
        run("ip", "-n", SWITCH, "link", "set", port, "master", "br0", "up")
        if netns is not None:
            run("ip", "link", "set", made, "netns", netns, "name", name)
        place = () if netns is None else ("-n", netns)
        run("ip", *place, "address", "add", f"{ip}/24", "dev", name)
        run("ip", *place, "link", "set", name, "up")


def _cgroups(vm: Vm) -> list[Path]:
    return [path for path in Path("/sys/fs/cgroup").glob(f"*/sk8v-{vm.name}") if path.is_dir()]


def _in_cgroup(vm: Vm) -> bool:
    """Whether a process of it lives: its control group holds them all, below whatever they moved to."""
    return any(file.read_text().strip() for group in _cgroups(vm) for file in group.rglob("cgroup.procs"))
