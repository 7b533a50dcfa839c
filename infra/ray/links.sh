#!/usr/bin/env bash
# links.sh add|remove DIRECTORY: ray, python and sk8 there, which run those of /opt/sk8 as root (bin/as-root). What is
# there already and not ours stays as it is: a root wrapper in the place of somebody's python would be a bad surprise.
set -euo pipefail
verb=$1 directory=$2
ours=/opt/sk8/infra/ray/bin/as-root
for name in ray python sk8; do
    link=$directory/$name
    if [ "$(readlink "$link" || true)" = "$ours" ]; then
        [ "$verb" = add ] || rm "$link"
    elif [ "$verb" = add ] && { [ -e "$link" ] || [ -L "$link" ]; }; then
        printf '  %s\n' "$link is not of sk8 and stays: call /opt/sk8/.venv/bin/$name as root instead"
    elif [ "$verb" = add ]; then
        ln -s "$ours" "$link"
    fi
done
