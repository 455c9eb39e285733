#!/bin/bash
# cri-client.sh: what the tests of pods (shim/tests/containerd/pods.rs) speak Kubernetes' Container Runtime Interface
# with, as no distributor packages a client for it.
#   CACHE/peers/ARCH/containerd/cri   a venv with gRPC from PyPI, and in messages/ those of shim/tests/containerd/cri.proto
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$HERE/common.sh"

client=$MOTE_CACHE_DIR/peers/$HOST_ARCH/containerd/cri
proto=$HERE/../shim/tests/containerd/cri.proto
packages=(grpcio==1.85.1 grpcio-tools==1.85.1 protobuf==7.36.2 setuptools==80.9.0)
recipe=$(hash_of "$proto" "${packages[*]}")

[ "$(cat "$client/recipe" 2>/dev/null || true)" != "$recipe" ] || exit 0
lock cri-client # another process may make it while this one waits
[ "$(cat "$client/recipe" 2>/dev/null || true)" != "$recipe" ] || exit 0
mkdir -p "$client"
python3 -c 'import ensurepip, venv' 2>/dev/null || need_packages python3-venv

say "getting gRPC for Python from PyPI, once (log: $client/log)"
if {
  python3 -m venv "$client" &&
    "$client/bin/pip" -q install "${packages[@]}" &&
    mkdir -p "$client/messages" &&
    "$client/bin/python" -m grpc_tools.protoc -I "$(dirname "$proto")" --python_out "$client/messages" "$proto"
} >"$client/log" 2>&1; then
  echo "$recipe" >"$client/recipe"
else
  say "no client for the Container Runtime Interface: $(tail -1 "$client/log")" # the tests say that they weren't run
fi
