#!/bin/sh
# Make the image sk8/pause:1, which holds a pod's namespaces open.
#
# The image is one static busybox from Debian: no compiler and no registry is assumed. PID 1 sleeps forever, reaps
# whatever is re-parented to it (`wait` in ash waits for any child) and leaves at SIGTERM at once.
# Idempotent: does nothing when the image is there (FORCE=1 rebuilds it).
set -eu

IMAGE="${IMAGE:-sk8/pause:1}"

say() { printf 'pause image: %s\n' "$*"; }
fail() { printf 'pause image: error: %s\n' "$*" >&2; exit 1; }

command -v docker >/dev/null || fail "docker (the client) is not installed: apt-get install docker.io"
if [ "${FORCE:-0}" != 1 ] && docker image inspect "$IMAGE" >/dev/null 2>&1; then
    say "$IMAGE is there already"
    exit 0
fi

work="$(mktemp -d "${TMPDIR:-/tmp}/sk8-pause.XXXXXX")"
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work/root/bin" "$work/root/proc" "$work/root/sys" "$work/root/dev" "$work/root/etc" "$work/root/tmp"

busybox="${BUSYBOX:-}"
if [ -z "$busybox" ]; then
    if [ -x /bin/busybox ] && /bin/busybox sh -c 'exit 0' && ! ldd /bin/busybox >/dev/null 2>&1; then
        busybox=/bin/busybox
        say "using the static busybox of this machine"
    else
        command -v dpkg-deb >/dev/null || fail "dpkg-deb is needed to unpack busybox-static (or set BUSYBOX=/path)"
        say "fetching Debian's busybox-static"
        # As root apt warns when its own user cannot write here; the file arrives all the same.
        (cd "$work" && apt-get download busybox-static >"$work/apt.log" 2>&1) || {
            cat "$work/apt.log" >&2
            fail "cannot fetch busybox-static: is there a network, has 'apt-get update' run?"
        }
        mkdir "$work/deb"
        dpkg-deb -x "$work"/busybox-static_*.deb "$work/deb"
        busybox="$work/deb/bin/busybox"
    fi
fi
[ -x "$busybox" ] || fail "$busybox is not an executable busybox"

cp "$busybox" "$work/root/bin/busybox"
for applet in sh sleep; do ln -s busybox "$work/root/bin/$applet"; done

say "importing $IMAGE"
tar -C "$work/root" --owner=0 --group=0 --numeric-owner -c . | docker import \
    --change 'ENTRYPOINT ["/bin/sh", "-c", "trap \"exit 0\" TERM INT; while :; do sleep 2147483647 & wait; done"]' \
    --change 'LABEL sk8.image=pause' \
    - "$IMAGE" >/dev/null
say "$IMAGE is ready ($(docker image inspect -f '{{.Size}}' "$IMAGE") bytes)"
