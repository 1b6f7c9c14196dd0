#!/usr/bin/env bash
# `make image-test`: builds the real image without a Docker engine, and runs it as its user on its read-only root.
# Needs root, buildah and debootstrap (Debian). The base is created here; this machine's own pip fetches the locked packages, so the
# build uses the same package index as this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
scratch="$(mktemp -d)"
buildah=(buildah --root "$scratch/storage" --runroot "$scratch/run" --storage-driver vfs)
image=localhost/vercel-outbox-dispatcher:test
base_name=localhost/python

say() { printf '── %s\n' "$*"; }

clean_up() {
    if [ -n "${service:-}" ]; then kill -KILL "$service" 2>/dev/null || true; fi
    if mountpoint --quiet "${root:-}/var/lib/dispatcher"; then umount "$root/var/lib/dispatcher"; fi
    "${buildah[@]}" umount --all >/dev/null 2>&1 || true
    rm -rf "$scratch"
}
trap clean_up EXIT

create_base() {
    local container
    say "a base"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$scratch/base" >"$scratch/debootstrap.log" 2>&1 ||
        { tail "$scratch/debootstrap.log" >&2; exit 1; }
    container="$("${buildah[@]}" from scratch)"
    "${buildah[@]}" add --quiet "$container" "$scratch/base" / >/dev/null
    "${buildah[@]}" commit --quiet --rm "$container" "$base_name" >/dev/null
    base="$base_name@$("${buildah[@]}" images --format '{{.Digest}}' "$base_name")"
    rm -rf "$scratch/base"
}

fetch_packages() {
    say "the locked packages"
    /usr/bin/python3 -m venv "$scratch/fetch"
    for locked in requirements.txt requirements-build.txt; do
        "$scratch/fetch/bin/python" -m pip download --quiet --disable-pip-version-check --require-hashes \
            --only-binary :all: --requirement "$locked" --dest "$scratch/packages" 2>"$scratch/pip.log" ||
            { tail "$scratch/pip.log" >&2; exit 1; }
    done
    printf '[global]\nno-index = true\nfind-links = /packages\n' >"$scratch/pip.conf"
}

build() {
    "${buildah[@]}" bud --quiet --format docker --isolation chroot --network host --pull-never \
        --volume "$scratch/packages:/packages:ro" --volume "$scratch/pip.conf:/etc/pip.conf:ro" \
        --build-arg VERSION="$(.venv/bin/hatchling version)" --build-arg REVISION="$(git rev-parse HEAD)" \
        "$@" --tag "$image" . >"$scratch/build.log" 2>&1
}

build_image() {
    say "the image: refused on a base without its digest"
    if build --build-arg BASE="$base_name"; then echo "it was built on a tag" >&2; exit 1; fi
    grep --quiet "BASE is not an image with its digest" "$scratch/build.log" || { tail -30 "$scratch/build.log" >&2; exit 1; }
    say "the image"
    build --build-arg BASE="$base" || { tail -30 "$scratch/build.log" >&2; exit 1; }
    root="$("${buildah[@]}" mount "$("${buildah[@]}" from --pull-never "$image")")"
}

config() { "${buildah[@]}" inspect --type image --format "$1" "$image"; }

# Runs a command in the image: as process 1, with the image's user and environment; only /tmp is writable.
in_image() {
    local environment user
    mapfile -t environment < <(config '{{range .Docker.Config.Env}}{{println .}}{{end}}')
    user="$(config '{{.Docker.Config.User}}')"
    # shellcheck disable=SC2016 # these are the arguments of that shell, not of this one
    exec env -i "${environment[@]}" "${settings[@]}" unshare --mount --pid --fork --kill-child -- bash -ec '
        root="$1" user="$2" directory="$3"
        shift 3
        mount --rbind "$root" "$root"
        mount -t proc proc "$root/proc"
        mount -t tmpfs tmpfs "$root/tmp"
        mount --rbind /dev "$root/dev"
        mount -o remount,bind,ro "$root"
        exec unshare --root "$root" --wd "$directory" --setuid "${user%:*}" --setgid "${user#*:}" -- "$@"
    ' bash "$root" "$user" "$(config '{{.Docker.Config.WorkingDir}}')" "$@"
}

expect() {
    [ "$2" = "$3" ] || { printf '%s is %s, not %s\n' "$1" "$2" "$3" >&2; exit 1; }
    printf '   %s: %s\n' "$1" "$2"
}

check_configuration() {
    say "the image's configuration"
    expect "user" "$(config '{{.Docker.Config.User}}')" 65532:65532
    expect "entry point" "$(config '{{.Docker.Config.Entrypoint}}')" "[dispatcher]"
    expect "command" "$(config '{{.Docker.Config.Cmd}}')" "[run]"
    expect "health check" "$(config '{{.Docker.Config.Healthcheck.Test}}')" "[CMD dispatcher health]"
    expect "version" "$(config '{{index .Docker.Config.Labels "org.opencontainers.image.version"}}')" "$(.venv/bin/hatchling version)"
    expect "base" "$(config '{{index .Docker.Config.Labels "org.opencontainers.image.base.name"}}')" "$base"
    expect "files that the user owns or anyone may change" "$(cd "$root" && find opt/dispatcher -user 65532 -o -perm -o=w ! -type l | wc -l)" 0
    expect "build tools left in the image" "$(cd "$root" && ls opt/dispatcher/lib/python3.*/site-packages | grep -cxE 'pip|hatchling')" 0
    say "$(du -sm "$root/opt/dispatcher" | cut -f1) MB on top of the base"
}

check_sbom() {
    say "the list of what the image holds"
    $python -m tests.deploy.image_sbom "$root"
}

run_demo() {
    say "the demo, on a read-only root"
    (in_image dispatcher demo) 2>"$scratch/demo.log" || { tail "$scratch/demo.log" >&2; exit 1; }
    if (in_image python3 -c 'open("/var/lib/dispatcher/file", "w")') 2>/dev/null; then
        echo "the root is writable" >&2
        exit 1
    fi
}

run_service() {
    say "the service as process 1: healthy, then stopped by SIGTERM"
    local port code=0
    port="$($python -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')"
    # One database file for all commands below, because each has its own /tmp.
    install -d -o 65532 -g 65532 "$scratch/data"
    mount --bind "$scratch/data" "$root/var/lib/dispatcher"
    settings=("DISPATCHER_OPS_PORT=$port" DISPATCHER_VERCEL_TOKEN=made-up DISPATCHER_DATABASE_URL=sqlite:///dispatcher.db)
    (in_image dispatcher migrate)
    (in_image dispatcher run) 2>"$scratch/service.log" &
    service=$!
    for _ in $(seq 100); do (in_image dispatcher health) >/dev/null 2>&1 && break || sleep 0.2; done
    (in_image dispatcher health) || { tail "$scratch/service.log" >&2; exit 1; }
    kill -TERM "$(pgrep --parent "$service")"
    wait "$service" || code=$?
    service=
    expect "exit code after SIGTERM" "$code" 0
    expect "exit code of dispatcher health after the stop" "$( (in_image dispatcher health) >/dev/null 2>&1 || echo $?)" 4
    umount "$root/var/lib/dispatcher"
}

settings=()
create_base
fetch_packages
build_image
check_configuration
check_sbom
run_demo
run_service
say "the image works"
