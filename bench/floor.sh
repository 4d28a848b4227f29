# shellcheck shell=bash
# The floor under a deploy: what any tool has to do, and nothing else. Read by `sudo bash -s` at the end of one ssh connection.
# Arguments: tag, container to start, its port, container to stop (or -), instance, host name for the check.
set -eu
tag=$1 container=$2 port=$3 old=$4 app=$5 domain=$6
release=$(sed -n 's/^RELEASE=//p' "/var/lib/gantry/$app/live")
image=$(sed -n 's/.*"image": "\(.*\)",/\1/p' "/var/lib/gantry/$app/releases/$release/record.json"):$tag

docker pull --quiet "$image" >/dev/null

docker run --detach --name "$container" --label gantry.bench=floor --network "gantry-$app" \
  --publish "127.0.0.1:$port:8000" --user 10001:10001 --read-only --tmpfs /tmp:mode=1777 --cap-drop ALL \
  --security-opt no-new-privileges --env-file "/var/lib/gantry/$app/releases/$release/env" \
  --env SECRET_KEY_FILE=/run/secrets/SECRET_KEY --volume "/run/gantry/$app/$release:/run/secrets:ro" \
  --volume "/var/lib/gantry/$app/data:/data" "$image" >/dev/null

healthy() {
  { exec 3<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null || return 1
  printf 'GET /health/ready HTTP/1.1\r\nHost: %s\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n' "$domain" >&3
  read -r _ status _ <&3 || status=none
  exec 3>&-
  [ "$status" = 200 ]
}
deadline=$((SECONDS + 60))
until healthy; do
  [ "$SECONDS" -lt "$deadline" ] || { docker logs --tail 20 "$container" >&2; exit 1; }
  read -rt 0.1 <> <(:) || :
done

# The switch, on a route of the benchmark's own, so that nobody's traffic moves.
python3 - <<'PYTHON'
import socket
for command in ("del map /etc/haproxy/gantry/routes.map bench.test/", "add map /etc/haproxy/gantry/routes.map bench.test/ maintenance"):
    with socket.socket(socket.AF_UNIX) as runtime:
        runtime.connect("/run/haproxy/admin.sock")
        runtime.sendall(command.encode() + b"\n")
        runtime.recv(4096)
PYTHON

[ "$old" = - ] || docker stop --time 30 "$old" >/dev/null
