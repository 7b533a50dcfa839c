"""The scripts of infra/ when something is missing: a reason and what to do, with Debian 12's own python3, no traceback.

Every program they call is a stand-in of the test's, so nothing of the machine is read or changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

INFRA = Path(__file__).resolve().parents[3] / "infra"
PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
BOTTOM = ("bash", "dirname", "uname", "id", "cat", "mktemp", "rm", "ln", "mkdir")
BOTTOM += ("grep", "tail", "sed", "head", "cut", "sha256sum")
NEEDED = (
    "dockerd",
    "containerd",
    "runc",
    "nft",
    "ip",
    "conntrack",
    "mmdebstrap",
    "busybox",
    "mkfs.ext4",
    "nsenter",
    "losetup",
    "curl",
)
Program = Callable[[str, str], None]


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    """A PATH with the bottom of any system on it."""
    path = tmp_path / "bin"
    path.mkdir()
    for name in BOTTOM:
        found = shutil.which(name)
        assert found is not None, name
        (path / name).symlink_to(found)
    return path


@pytest.fixture
def program(bin_dir: Path) -> Program:
    def make(name: str, script: str) -> None:
        path = bin_dir / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    return make


def run(bin_dir: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(bin_dir), "HOME": str(bin_dir.parent), "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


# -- bootstrap.sh ------------------------------------------------------------------------------------------------------
@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """bootstrap.sh in a checkout of its own, seeing no directory of programs but the test's."""
    root = tmp_path / "checkout"
    (root / "infra").mkdir(parents=True)
    text = (INFRA / "bootstrap.sh").read_text()
    added = 'PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"\n'
    assert added in text
    script = root / "infra" / "bootstrap.sh"
    script.write_text(text.replace(added, ""))
    script.chmod(0o755)
    (root / "requirements.lock").write_text("ray==1\n")
    (root / "pyproject.toml").write_text("")
    return root


def bootstrap(bin_dir: Path, checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(bin_dir, str(bin_dir / "bash"), str(checkout / "infra" / "bootstrap.sh"), *arguments)


def test_bootstrap_not_on_linux(bin_dir: Path, checkout: Path, program: Program) -> None:
    program("uname", "echo Darwin")
    done = bootstrap(bin_dir, checkout)
    assert done.returncode == 1
    assert done.stderr == (
        "error: sk8 needs Linux, and this is Darwin\n  try: a Debian 12 machine or virtual machine\n"
    )


def test_bootstrap_not_as_root(bin_dir: Path, checkout: Path, program: Program) -> None:
    program("id", "echo 1000")
    program("ldconfig", "true")
    done = bootstrap(bin_dir, checkout)
    assert done.returncode == 1
    assert "error: packages are missing: docker.io containerd runc nftables" in done.stderr
    assert "kubectl\n  try: run it as root: sudo infra/bootstrap.sh" in done.stderr


def test_bootstrap_without_apt(bin_dir: Path, checkout: Path, program: Program) -> None:
    program("id", "echo 0")
    program("ldconfig", "true")
    done = bootstrap(bin_dir, checkout)
    assert done.returncode == 1 and "there is no apt-get" in done.stderr


@pytest.mark.parametrize(
    ("apt", "says"),
    [
        (
            "echo \"W: Failed to fetch http://mirror/InRelease  Temporary failure resolving 'mirror'\"",
            "error: cannot reach the Debian mirrors: W: Failed to fetch http://mirror/InRelease  Temporary failure",
        ),
        (
            "echo 'E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt)'; exit 100",
            "error: another apt is at work: E: Could not get lock",
        ),
        (
            "case $* in *install*) echo 'E: Unable to locate package docker.io'; exit 100;; esac",
            "error: apt-get could not install them: E: Unable to locate package docker.io",
        ),
    ],
)
def test_bootstrap_when_apt_fails(apt: str, says: str, bin_dir: Path, checkout: Path, program: Program) -> None:
    program("id", "echo 0")
    program("ldconfig", "true")
    program("apt-get", apt)
    done = bootstrap(bin_dir, checkout)
    assert done.returncode == 1
    assert "installing Debian packages: docker.io" in done.stdout
    assert says in done.stderr and "\n  try: " in done.stderr


def everything(program: Program, python: str = PYTHON) -> None:
    for name in NEEDED:
        program(name, "true")
    program("ldconfig", "echo libnftables.so.1")
    program("kubectl", """echo '{"clientVersion": {"minor": "32"}}'""")
    program("python3", f'exec {python} "$@"')
    program("id", "echo 1000")


def test_bootstrap_without_a_package_index(bin_dir: Path, checkout: Path, program: Program) -> None:
    everything(program)
    program("uv", "case $* in *sync*) echo 'error: Failed to fetch' >&2; exit 2;; esac")
    done = bootstrap(bin_dir, checkout)
    assert done.returncode == 1, done
    assert "installing 1 Python packages from requirements.lock" in done.stdout
    assert "error: the Python packages could not be installed\n  try: check the network and the package index" in (
        done.stderr
    )


def test_bootstrap_leaves_a_kubectl_of_yours_alone_and_says_what_it_lacks(
    bin_dir: Path, checkout: Path, program: Program
) -> None:
    everything(program)
    program("kubectl", """echo '{"clientVersion": {"minor": "27+"}}'""")
    program("dpkg-query", "exit 1")
    program("uv", "mkdir -p .venv")
    done = bootstrap(bin_dir, checkout)
    assert done.returncode == 0, done
    assert "kubectl is 1.27; it lacks commands and flags of 1.31 and newer (it is left alone)" in done.stdout


def test_bootstrap_does_nothing_the_second_time(bin_dir: Path, checkout: Path, program: Program) -> None:
    everything(program)
    program("uv", f"mkdir -p .venv/bin; ln -sf {PYTHON} .venv/bin/python; ln -sf {PYTHON} .venv/bin/sk8")
    assert bootstrap(bin_dir, checkout).returncode == 0
    program("uv", "echo again; exit 1")
    done = bootstrap(bin_dir, checkout)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- images ------------------------------------------------------------------------------------------------------------
@pytest.fixture
def images(tmp_path: Path) -> Path:
    """build.py in a checkout of its own, with its own build/images."""
    shutil.copytree(INFRA / "images", tmp_path / "checkout" / "infra" / "images")
    return tmp_path / "checkout" / "infra" / "images" / "build.py"


def test_images_without_their_programs(bin_dir: Path, images: Path) -> None:
    done = run(bin_dir, PYTHON, str(images))
    assert (done.returncode, done.stderr) == (1, "images: docker is missing; run infra/bootstrap.sh first\n")
    assert run(bin_dir, PYTHON, str(images), "--remove").returncode == 0  # nothing to remove


def test_images_without_an_engine(bin_dir: Path, images: Path, program: Program) -> None:
    program("docker", "exit 1")
    program("mmdebstrap", "exit 1")
    done = run(bin_dir, PYTHON, str(images))
    assert done.returncode == 1 and "no container engine answers; sk8 up starts one" in done.stderr


def test_images_without_a_network(bin_dir: Path, images: Path, program: Program) -> None:
    program("docker", 'if [ "$1" = info ]; then exit 0; else exit 1; fi')
    program(
        "mmdebstrap",
        "echo 'I: running apt-get update...' >&2; echo 'E: apt-get update failed: cannot resolve' >&2; exit 1",
    )
    done = run(bin_dir, PYTHON, str(images), "busybox:1.36")
    assert done.returncode == 1
    assert "E: apt-get update failed: cannot resolve" in done.stderr and "running apt-get" not in done.stderr
    assert "try: check the network" in done.stderr and "Traceback" not in done.stderr
    assert list((images.parents[2] / "build" / "images").iterdir()) == []


def test_images_of_other_names(bin_dir: Path, images: Path, program: Program) -> None:
    program("docker", "true")
    program("mmdebstrap", "true")
    done = run(bin_dir, PYTHON, str(images), "redis")
    assert done.returncode == 1 and "redis is not made here; there are nginx:1.21" in done.stderr


def test_removing_images_removes_replaced_ones_by_their_id(
    bin_dir: Path, images: Path, program: Program, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    program(
        "docker",
        f'echo "$*" >> {calls}; if [ "$2" = ls ]; then echo "abc <none>:<none>"; echo "def nginx:1.21"; fi',
    )
    done = run(bin_dir, PYTHON, str(images), "--remove")
    assert (done.returncode, done.stdout) == (0, "  image nginx:1.21: removed\n")
    assert calls.read_text().splitlines()[-2:] == ["rmi -f abc", "rmi -f nginx:1.21"]


# -- demo.py -----------------------------------------------------------------------------------------------------------
def test_the_demo_goes_to_no_other_cluster(bin_dir: Path, program: Program) -> None:
    program("kubectl", "echo prod")
    done = run(bin_dir, PYTHON, str(INFRA / "demo.py"))
    assert done.returncode == 1
    assert "current context is prod, not sk8; kubectl config use-context sk8" in done.stderr


def test_the_demo_without_kubectl(bin_dir: Path) -> None:
    done = run(bin_dir, PYTHON, str(INFRA / "demo.py"))
    assert done.returncode == 1 and "kubectl is not installed" in done.stderr and "Traceback" not in done.stderr


def test_the_demo_says_which_pods_it_waits_for(bin_dir: Path, program: Program) -> None:
    deployment = '{"metadata": {"name": "web"}, "spec": {"replicas": 3}, "status": {}}'
    program(
        "kubectl",
        f"""case "$*" in
        "config current-context") echo sk8;;
        "get deployments"*) echo '{{"items": [{deployment}]}}';;
        *) echo "said: $*";;
        esac""",
    )
    done = run(bin_dir, PYTHON, str(INFRA / "demo.py"), "--timeout", "0")
    assert done.returncode == 1
    assert "web 0/3" in done.stdout
    assert "said: get pods -o wide" in done.stderr and "not ready after 0 s" in done.stderr


def test_the_demo_ends_quietly_when_nobody_reads_on(bin_dir: Path, program: Program) -> None:
    program("kubectl", "echo sk8")
    reader, writer = os.pipe()
    os.close(reader)
    environment = {"PATH": str(bin_dir)}
    command = [PYTHON, str(INFRA / "demo.py")]
    try:
        done = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, timeout=60, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
