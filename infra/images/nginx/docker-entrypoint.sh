#!/bin/sh
# nginx stops in the middle of answers at SIGTERM and finishes them at SIGQUIT: turn the one into the other.
mkdir -p /run /tmp /var/log/nginx /var/lib/nginx
nginx -g "daemon off;" "$@" &
child=$!
trap 'kill -QUIT "$child"' TERM INT QUIT
# A trapped signal ends `wait` early; wait until the server itself is gone.
status=0
while kill -0 "$child" 2> /dev/null; do
    status=0
    wait "$child" || status=$?
done
exit "$status"
