#!/usr/bin/env bash
# Builds and installs everything the interop checks compare against or drive, under target/interop:
# etcd, etcdctl and etcd's benchmark from their Go modules, a Python environment with an etcd client and
# the prebuilt cargo tools, Debian's etcdctl from its package. Safe to run again: what is there is kept.
set -euo pipefail
export LC_ALL=C

interop=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$interop/../.." && pwd)
out="$root/target/interop"
mkdir -p "$out"

build_go() { # NAME PACKAGE
	local stamp="$out/$1.built-from"
	if [ -x "$out/$1" ] && cmp -s "$interop/go/go.sum" "$stamp"; then return; fi
	echo "interop: building $1"
	(cd "$interop/go" && GOWORK=off GOFLAGS=-mod=readonly go build -trimpath -o "$out/$1" "$2")
	cp "$interop/go/go.sum" "$stamp"
}
build_go etcd go.etcd.io/etcd/server/v3
build_go etcdctl go.etcd.io/etcd/etcdctl/v3
build_go benchmark go.etcd.io/etcd/v3/tools/benchmark

requirements="$interop/python/requirements.txt"
if ! cmp -s "$requirements" "$out/venv/installed-from"; then
	echo "interop: installing Python packages"
	[ -x "$out/venv/bin/pip" ] || python3 -m venv "$out/venv"
	"$out/venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
	cp "$requirements" "$out/venv/installed-from"
fi

# Debian's etcdctl is another generation of the client (3.4), worth driving beside 3.7's.
if [ ! -x "$out/etcdctl-debian" ]; then
	if ! [ -x /usr/bin/etcdctl ] && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
		echo "interop: installing etcd-client"
		apt-get update -qq </dev/null >/dev/null
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends etcd-client </dev/null >/dev/null
	fi
	if [ -x /usr/bin/etcdctl ]; then ln -sf /usr/bin/etcdctl "$out/etcdctl-debian"; else echo "interop: Debian's etcdctl is not there and cannot be installed; its checks are skipped"; fi
fi

"$out/etcd" --version | sed -n 1p
"$out/etcdctl" version | sed -n 1p
