#!/bin/bash
# soak.sh [options]: starts and ends many VMs in any way there is (by themselves, by a crash, by SIGTERM, by SIGKILL at
#   any moment), and looks for what they left behind; then many at once that write to their drives. It is the test
#   `soak` for longer than `make test` runs it, with the release binary. Exit status 1 with what differs, by name.
#   --vms N         how many VMs one after the other (default 1000)
#   --parallel N    how many of those at a time (default: twice the host's CPUs)
#   --seconds S     how long those may take together (default 1800)
#   --at-once N     how many VMs write at the same time (default 50)
#   --requests N    how many writes each of them does (default 256, at most 2000)
#   --memory MIB    how much less of the host's memory may be available afterwards (default 256); what else runs here
#                   uses memory, too
#   --seed N        the VMs of an earlier time (default: of the clock; it is told)
#   --linux         one VM of eight is a Linux guest; in the emulated machine where KVM here can't run Linux, and then
#                   with all the others
#   Taps, passt and namespaces need root; without, those are left out, and a NOT RUN line says so.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$HERE/common.sh"
cd "$HERE/.."

usage() {
  sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
  exit 2
}
vms=1000 parallel=$((2 * $(nproc))) seconds=1800 at_once=50 requests=256 memory=256 seed='' linux=0
while [ $# -gt 0 ]; do
  case $1 in
    --linux) linux=1 ;;
    --vms | --parallel | --seconds | --at-once | --requests | --memory | --seed)
      [[ ${2:-} =~ ^[1-9][0-9]{0,8}$ ]] || die "$1 ${2:-}: give a number from 1 on"
      name=${1#--} name=${name/-/_}
      printf -v "$name" %s "$2"
      shift
      ;;
    *) usage ;;
  esac
  shift
done
[ "$requests" -le 2000 ] || die "--requests $requests: at most 2000"

need_rust
export MOTE_SOAK_VMS=$vms MOTE_SOAK_PARALLEL=$parallel MOTE_SOAK_SECONDS=$seconds MOTE_SOAK_AT_ONCE=$at_once
export MOTE_SOAK_REQUESTS=$requests MOTE_SOAK_MEMORY=$memory MOTE_SOAK_LINUX=$linux
[ -z "$seed" ] || export MOTE_SOAK_SEED=$seed
"$HERE/peers.sh" >/dev/null
say "building mote (cargo build --release)"
cargo test --release --quiet --test soak --no-run
if [ $linux = 1 ]; then
  "$HERE/guest.sh" >/dev/null
  runner=CARGO_TARGET_$(host_triple | tr a-z- A-Z_)_RUNNER
  export "$runner=$HERE/on-kvm.sh -t $((seconds + 600)) -m 3072 --"
fi
cargo test --release --quiet --test soak -- --nocapture --test-threads 1
