#!/usr/bin/env python3
"""Build container images from Debian packages: this box has no registry to pull them from.

They are the demo's, and that of the coredns Deployment. Each image is a root file system made by mmdebstrap plus a few
files of ours (infra/images/<name>/, and for a program its modules of this checkout), kept as a tar under build/images
and loaded with `docker import`. A tar is rebuilt only when its recipe changes, so a second run takes about a second.
The demo's images carry the names that the reference's manifests use and the label `sk8.image`; what is really inside
is in the label `org.opencontainers.image.description` (Debian's nginx 1.22, not 1.21, and so on).

Standard library only: it runs with whatever python3 the machine has.

    python3 infra/images/build.py [NAME ...] [--remove]
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
CACHE = CHECKOUT / "build" / "images"
SITE_PACKAGES = "usr/lib/python3/dist-packages"
SUITE = "bookworm"
FORMAT = 1
NOT_NEEDED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/perl",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/x86_64-linux-gnu/libLLVM",
    "usr/lib/llvm",
    "usr/lib/postgresql/15/lib/bitcode",
    "usr/lib/postgresql/15/lib/llvmjit",
    "var/lib/apt",
    "var/cache/apt",
)


@dataclass(frozen=True)
class Image:
    """One image: Debian packages, an overlay directory, and the docker import changes.

    `program`: a module of this checkout, which goes in with all that it imports from here.
    """

    name: str
    overlay: str
    packages: tuple[str, ...]
    description: str
    changes: tuple[str, ...]
    links: dict[str, str] = field(default_factory=dict)
    program: str = ""
    on_request: bool = False
    """Built only when it is named."""
    suite: str = SUITE

    def files(self) -> dict[str, Path]:
        """What is ours in it: path in the image -> file here."""
        root = HERE / self.overlay
        found = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}
        code = imported(self.program) if self.program else ()
        return found | {f"{SITE_PACKAGES}/{path.relative_to(CHECKOUT)}": path for path in code}

    def digest(self) -> str:
        """A hash over everything the image is made of but the mirror's state. FORMAT: how make_tar makes it."""
        links = sorted(self.links.items())
        recipe = (FORMAT, self.suite, NOT_NEEDED, self.packages, self.changes, self.description, links)
        parts = [json.dumps(recipe)]
        for name, path in self.files().items():
            parts += [name, oct(path.stat().st_mode), path.read_text()]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def imported(program: str) -> list[Path]:
    """The files of a module of this checkout and of every module here that importing it imports."""
    found: dict[Path, None] = {}
    left = [program]
    while left:
        name = left.pop()
        path = CHECKOUT.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if path in found or not path.is_file():  # a name within a module is no file
            continue
        found[path] = None
        left += [name.rpartition(".")[0]] if "." in name else []
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                left += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                left += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return sorted(found)


BUSYBOX_LINKS = {
    f"bin/{name}": "/bin/busybox"
    for name in (
        "sh",
        "ls",
        "cat",
        "sleep",
        "ps",
        "wget",
        "nslookup",
        "id",
        "env",
        "date",
        "hostname",
        "ip",
        "nc",
        "mkdir",
        "tar",  # kubectl cp runs it
    )
}
BUSYBOX_APPLETS = """
[ arp arping ash awk base64 basename bc chgrp chmod chown chroot clear cmp cp cut dd df diff dirname dmesg
du echo egrep expr false find free getopt grep gunzip gzip head hexdump httpd ifconfig install kill killall less ln
logger md5sum mkfifo mknod mktemp more mount mountpoint mv netstat nice nohup nproc nsenter od pgrep pidof ping printf
pwd readlink realpath renice reset rm rmdir route sed seq setsid sha1sum sha256sum shuf sort split stat strings stty
sync sysctl tail tee telnet test time timeout top touch tr traceroute true truncate tty umount uname uniq unlink
unshare uptime usleep vi watch wc which whoami xargs yes zcat"""

IMAGES = (
    Image(
        "nginx:1.21",
        "nginx",
        ("nginx-light", "busybox-static"),
        "sk8 demo image: Debian 12's nginx-light (1.22) under the name the reference uses",
        (
            'ENTRYPOINT ["/bin/sh", "/docker-entrypoint.sh"]',
            "EXPOSE 80/tcp",
        ),
        BUSYBOX_LINKS,
    ),
    Image(
        "postgres:14",
        "postgres",
        ("postgresql-15", "postgresql-client-15", "busybox-static", "libc-bin", "util-linux"),
        "sk8 demo image: Debian 12's PostgreSQL (15) under the name the reference uses",
        (
            'ENTRYPOINT ["/bin/sh", "/usr/local/bin/docker-entrypoint.sh"]',
            "ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "ENV PSQL_PAGER=cat",
            "EXPOSE 5432/tcp",
        ),
        BUSYBOX_LINKS | {f"bin/{name}": "/bin/busybox" for name in ("chown", "chmod", "rm", "grep")},
    ),
    Image(
        "mycompany/api:v1.2.3",
        "api",
        ("python3", "python3-psycopg2", "busybox-static"),
        "sk8 demo image: the demo's Python API on Debian 12's python3 and psycopg2",
        (
            'ENTRYPOINT ["/usr/bin/python3", "-u", "/srv/api.py"]',
            "EXPOSE 3000/tcp",
        ),
        BUSYBOX_LINKS,
    ),
    Image(
        "sk8/dns:2",
        "dns",
        ("python3", "python3-msgpack", "python3-prometheus-client"),
        "sk8's DNS server (the coredns Deployment) on Debian 12's python3",
        ('ENTRYPOINT ["/usr/bin/python3", "-u", "-m", "cluster.network.dns_pod"]', "EXPOSE 53/udp"),
        program="cluster.network.dns_pod",
    ),
    Image(
        "busybox:1.36",
        "busybox",
        ("busybox-static",),
        "sk8 demo image: Debian 13's busybox-static (1.37; in Debian 12's, `wget -T` ends with a segmentation fault)",
        ('CMD ["/bin/sh"]',),
        dict.fromkeys((*BUSYBOX_LINKS, *(f"bin/{a}" for a in BUSYBOX_APPLETS.split())), "/usr/bin/busybox"),
        suite="trixie",
    ),
    Image(
        "prom/prometheus:v2.42.0",
        "prometheus",
        ("prometheus",),
        "sk8 image: Debian 12's Prometheus",
        ('ENTRYPOINT ["/usr/bin/prometheus"]', "EXPOSE 9090/tcp"),
        on_request=True,
    ),
    Image(
        "rsyslog/rsyslog:8.2302.0",
        "rsyslog",
        ("rsyslog", "busybox-static"),
        "sk8 image: Debian 12's rsyslog",
        ('ENTRYPOINT ["/usr/sbin/rsyslogd"]',),
        BUSYBOX_LINKS,
        on_request=True,
    ),
)


def run(*argv: str, hint: str = "") -> str:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        # apt's own errors say more than the list of what was cleaned up after them
        last = [line for line in said if line.startswith(("E:", "W: Failed", "Err"))][:3] or said[-5:]
        raise SystemExit(f"images: `{' '.join(argv[:3])} ...` failed:\n  " + "\n  ".join(last) + hint)
    return done.stdout.strip()


NO_PACKAGES = """
  try: check the network, the proxy (http_proxy) and /etc/apt/sources.list*: `apt-get update` must work.
  Only the first build needs them; built images are kept in build/images"""


def engine_answers() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _slim(source: Path, target: Path, ours: set[str]) -> None:
    """Copy a root file system without what no container reads and what our own files replace."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            name = member.name.removeprefix("./")
            if name.startswith(NOT_NEEDED) or name in ours or member.ischr() or member.isblk():
                continue
            new.addfile(member, old.extractfile(member) if member.isreg() else None)


def _add_overlay(image: Image, tar_path: Path) -> None:
    """Append our files and links; later members of a tar win."""
    with tarfile.open(tar_path, "a") as tar:
        for link, target in image.links.items():
            member = tarfile.TarInfo(f"./{link}")
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
        for name, path in image.files().items():
            member = tar.gettarinfo(str(path), arcname=f"./{name}")
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            with path.open("rb") as content:
                tar.addfile(member, content)


def make_tar(image: Image, tar_path: Path) -> None:
    """The image's root file system, whole or not at all; older ones of it are removed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    whole, partial = tar_path.with_suffix(".whole.tar"), tar_path.with_suffix(".partial.tar")
    try:
        packages = f"--include={','.join(image.packages)}"
        run("mmdebstrap", "--variant=extract", packages, image.suite, str(whole), hint=NO_PACKAGES)
        ours = {*image.files(), *image.links}
        _slim(whole, partial, ours)
        _add_overlay(image, partial)
        partial.rename(tar_path)
    finally:
        whole.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
    for old in CACHE.glob(f"{image.overlay}-*.tar"):
        if old != tar_path:
            old.unlink()


def made_from(image: Image) -> str:
    """The digest of the recipe from which the engine's image was made; "" when it is not ours, or not there."""
    shown = '{{index .Config.Labels "sk8.image"}}'
    argv = ["docker", "image", "inspect", "-f", shown, image.name]
    return subprocess.run(argv, capture_output=True, text=True).stdout.strip()


def tar_of(image: Image) -> Path:
    return CACHE / f"{image.overlay}-{image.digest()}.tar"


def build(image: Image) -> str:
    """Make sure the engine has the image; what was done, in a few words."""
    started = time.monotonic()
    digest, have = image.digest(), made_from(image)
    if have == digest:
        return "present"
    if have == "" and subprocess.run(["docker", "image", "inspect", image.name], capture_output=True).returncode == 0:
        raise SystemExit(
            f"images: {image.name} exists here and is not ours; it will not be overwritten. "
            f"Rename it first: docker tag {image.name} mine/{image.name} && docker rmi {image.name}"
        )
    tar_path = tar_of(image)
    what = "loaded"
    if not tar_path.exists():
        what = "built"
        make_tar(image, tar_path)
    changes = [f"--change=LABEL sk8.image={digest}"]
    changes.append(f'--change=LABEL org.opencontainers.image.description="{image.description}"')
    changes += [f"--change={change}" for change in image.changes]
    run("docker", "import", *changes, str(tar_path), image.name)
    if have:
        stale = run("docker", "image", "ls", "-q", "--filter", f"label=sk8.image={have}", "--filter", "dangling=true")
        for image_id in stale.split():
            subprocess.run(["docker", "rmi", image_id], capture_output=True)
    return f"{what} in {time.monotonic() - started:.1f} s"


def remove() -> None:
    """Remove every image made here, also those that a newer one of the same name replaced; the tars stay."""
    if not engine_answers():
        return  # none to remove from: an engine of sk8's own goes with its images
    listed = run("docker", "image", "ls", "--filter", "label=sk8.image", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}")
    for line in listed.splitlines():
        image_id, name = line.split()
        dangling = name == "<none>:<none>"
        done = subprocess.run(["docker", "rmi", "-f", image_id if dangling else name], capture_output=True, text=True)
        if "is being used by" in done.stderr:
            print(f"  image {image_id}: a container still uses it; again after sk8 down", file=sys.stderr)
        elif done.returncode and "No such image" not in done.stderr:
            print(f"  image {name}: {done.stderr.strip()}", file=sys.stderr)
        elif not dangling:
            print(f"  image {name}: removed", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only these images (default: the demo's)")
    parser.add_argument("--remove", action="store_true", help="remove the images made here from the engine")
    args = parser.parse_args()
    if args.remove:
        return remove()
    for program in ("docker", "mmdebstrap"):
        if not shutil.which(program):
            raise SystemExit(f"images: {program} is missing; run infra/bootstrap.sh first")
    if not engine_answers():
        raise SystemExit("images: no container engine answers; sk8 up starts one (or: systemctl start docker)")
    unknown = sorted(set(args.names) - {image.name for image in IMAGES})
    if unknown:
        known = ", ".join(image.name for image in IMAGES)
        raise SystemExit(f"images: {', '.join(unknown)} is not made here; there are {known}")
    wanted = [image for image in IMAGES if image.name in args.names or not (args.names or image.on_request)]
    missing = [image for image in wanted if not tar_of(image).exists() and made_from(image) != image.digest()]
    if missing:
        print(f"Images: building {len(missing)} from Debian packages, about 10 s each, once", flush=True)
    with ThreadPoolExecutor(2) as pool:
        for image, what in zip(wanted, pool.map(build, wanted), strict=True):
            print(f"  image {image.name}: {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
