#!/usr/bin/env bash
# Builds and installs everything the interop checks compare against or drive, under target/interop:
# etcd, etcdctl and etcd's benchmark from their Go modules, a client program per language with its packages,
# the prebuilt cargo tools, Debian's etcdctl from its package. Safe to run again: what is there is kept.
# A language that is not there and cannot be installed is named; its checks are skipped.
set -euo pipefail
export LC_ALL=C

interop=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$interop/../.." && pwd)
out="$root/target/interop"
mkdir -p "$out"

# Whether all sources of a thing are what it was built from; `built` writes that down.
fresh() { # STAMP FILE...
	[ -f "$1" ] && cat "${@:2}" | cmp -s - "$1"
}
built() { # STAMP FILE...
	cat "${@:2}" >"$1"
}

# Debian's packages, where that can be done.
install_debian() { # PACKAGE...
	command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || return 1
	echo "interop: installing $*"
	apt-get update -qq </dev/null >/dev/null
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
}
need() { # PROGRAM PACKAGE...
	command -v "$1" >/dev/null || install_debian "${@:2}" || {
		echo "interop: $1 is not there and cannot be installed; the checks that need it are skipped"
		return 1
	}
}

build_go() { # NAME PACKAGE [SOURCE...]
	local sources=("$interop/go/go.sum" "${@:3}")
	if [ -x "$out/$1" ] && fresh "$out/$1.built-from" "${sources[@]}"; then return; fi
	echo "interop: building $1"
	(cd "$interop/go" && GOWORK=off GOFLAGS=-mod=readonly go build -trimpath -o "$out/$1" "$2")
	built "$out/$1.built-from" "${sources[@]}"
}
build_go etcd go.etcd.io/etcd/server/v3
build_go etcdctl go.etcd.io/etcd/etcdctl/v3
build_go benchmark go.etcd.io/etcd/v3/tools/benchmark
build_go go-scenario ./scenario "$interop"/go/scenario/*.go

# These bring their own versions of everything, so each is a module of its own.
build_apart() { # NAME MODULE COMMAND...
	local sources=("$interop/$2"/go.sum "$interop/$2"/*.go)
	if [ -x "$out/$1" ] && fresh "$out/$1.built-from" "${sources[@]}"; then return; fi
	echo "interop: building $1"
	(cd "$interop/$2" && GOWORK=off GOFLAGS=-mod=readonly go "${@:3}" -trimpath -o "$out/$1" .)
	built "$out/$1.built-from" "${sources[@]}"
}
build_apart kubernetes-storage kubernetes test -c -vet=off
build_apart coredns-scenario coredns build

build_venv() { # NAME REQUIREMENTS
	if fresh "$out/$1/installed-from" "$2"; then return; fi
	echo "interop: installing Python packages of $(basename "$2")"
	[ -x "$out/$1/bin/python" ] || python3 -m venv "$out/$1"
	"$out/$1/bin/python" -m pip install --quiet --disable-pip-version-check -r "$2"
	built "$out/$1/installed-from" "$2"
}
build_venv venv "$interop/python/requirements.txt"
build_venv venv-etcd3 "$interop/python/etcd3-requirements.txt"

build_node() {
	if fresh "$out/node/installed-from" "$interop/node/package-lock.json"; then return; fi
	need node nodejs && need npm npm || return 0
	echo "interop: installing Node packages"
	mkdir -p "$out/node"
	cp "$interop/node/package.json" "$interop/node/package-lock.json" "$out/node/"
	(cd "$out/node" && npm ci --ignore-scripts --no-audit --no-fund --silent </dev/null)
	built "$out/node/installed-from" "$interop/node/package-lock.json"
}
build_node

build_java() {
	local sources=("$interop/java/pom.xml" "$interop/java/Scenario.java")
	if fresh "$out/java/built-from" "${sources[@]}"; then return; fi
	need javac default-jdk-headless && need mvn maven || return 0
	echo "interop: building the Java client"
	rm -rf "$out/java"
	mkdir -p "$out/java/classes"
	mvn -q -B -f "$interop/java/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies -DoutputDirectory="$out/java/lib" </dev/null
	javac -nowarn -d "$out/java/classes" -cp "$out/java/lib/*" "$interop/java/Scenario.java"
	built "$out/java/built-from" "${sources[@]}"
}
build_java

build_rust() {
	local sources=("$interop/rust/Cargo.lock" "$interop/rust/Cargo.toml" "$interop/rust/src/main.rs")
	if fresh "$out/rust/built-from" "${sources[@]}"; then return; fi
	# The crate compiles etcd's protos by protoc, and they import those of libprotobuf-dev.
	if ! [ -f /usr/include/google/protobuf/descriptor.proto ] || ! command -v protoc >/dev/null; then
		install_debian protobuf-compiler libprotobuf-dev || {
			echo "interop: protoc is not there and cannot be installed; the checks of etcd-client are skipped"
			return 0
		}
	fi
	echo "interop: building the etcd-client crate"
	(cd "$interop/rust" && CARGO_TARGET_DIR="$out/rust" cargo build --locked --quiet)
	built "$out/rust/built-from" "${sources[@]}"
}
build_rust

# Debian's etcdctl is another generation of the client (3.4), worth driving beside 3.7's.
if [ ! -x "$out/etcdctl-debian" ]; then
	[ -x /usr/bin/etcdctl ] || install_debian etcd-client || echo "interop: Debian's etcdctl is not there and cannot be installed; its checks are skipped"
	if [ -x /usr/bin/etcdctl ]; then ln -sf /usr/bin/etcdctl "$out/etcdctl-debian"; fi
fi

"$out/etcd" --version | sed -n 1p
"$out/etcdctl" version | sed -n 1p
