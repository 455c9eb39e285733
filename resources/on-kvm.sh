#!/bin/bash
# on-kvm.sh [-a ARCH] [-g GIC] [-p CPU] [-c CPUS] [-m MB] [-t SECONDS] [-q SECONDS] [-n] [-i] [-v] [-w] [--] COMMAND [ARGS...]
#   Runs COMMAND where KVM can run Linux: right here if this host can. Otherwise in a small emulated
#   machine (QEMU) that has a processor with SVM (x86_64) or EL2 (aarch64), as root, with the host's files
#   read-only under a layer of RAM, in the same folder, with the same arguments and the environment that
#   matters (CARGO_*, RUST*, MOTE_*, ...). It also serves cargo as a test runner:
#     CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=resources/on-kvm.sh cargo test
#   A machine of another architecture than this host's has Debian's programs for that one. Of the host's files
#   it shows the current folder, the project's, cargo's target folder, the cache, TMPDIR if that is set, and the
#   folders of COMMAND (which may well be a static program: such programs run in it) and of absolute paths in ARGS.
#   -a ARCH     x86_64 or aarch64 (default: MOTE_ARCH, else this host's)
#   -g GIC      aarch64: the interrupt controller's version, 3 (default) or 2
#   -p CPU      the processor's model, as QEMU names it (default: max with SVM; aarch64: neoverse-n1, which has
#               VHE, and with -g 2 cortex-a57, which hasn't)
#   -c, -m, -t  the emulated machine's CPUs, memory, and how long it may take (default 2048 MB, 600 s;
#               no limit with a terminal)
#   -q SECONDS  end it, and show what runs in it, once it has said nothing for so long (emulated machine only)
#               x86_64: more than one CPU is not safe: KVM patches its code at each VM's start and end, and
#               this QEMU may run the old code on another CPU, at which the machine's Linux panics.
#               That holds without -n.
#   -n          the emulated machine's time is counted in instructions, a nanosecond for each, while its
#               CPUs take turns; pauses pass at once. Whatever else this host does changes no figure then.
#   -i          take the terminal as if stdin and stdout were one (they are looked at otherwise)
#   -v          show the emulated machine's kernel log at the end
#   -w          say where COMMAND would run, `here` or `emulated`, and end
#   ON_KVM_SHARE=DIR   a folder that COMMAND can write to, kept
#   ON_KVM=emulated    use the emulated machine even where this host could do
#   ON_KVM_QEMU='-plugin FILE ...'   further arguments for QEMU (kernel/cost.sh counts with them)
#   The exit status is COMMAND's; 123: said nothing for too long, 124: took too long,
#   125: the emulated machine failed.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$HERE/common.sh"

arch=$MOTE_ARCH gic=3 model='' cpus=1 memory=2048 limit='' quiet='' interactive=0 verbose=0 counted=0 where=0
usage() {
  sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
  exit 2
}
while getopts a:g:p:c:m:t:q:nivw option; do
  case $option in
    a) arch=$OPTARG ;;
    g) gic=$OPTARG ;;
    p) model=$OPTARG ;;
    c) cpus=$OPTARG ;;
    m) memory=$OPTARG ;;
    t) limit=$OPTARG ;;
    q) quiet=$OPTARG ;;
    n) counted=1 ;;
    i) interactive=1 ;;
    v) verbose=1 ;;
    w) where=1 ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))
[ $# -ge 1 ] || [ $where = 1 ] || usage

# --- this host, if it can ---
debian_arch "$arch" >/dev/null
if [ "$HOST_ARCH" = x86_64 ]; then
  flags='no vmx or svm in /proc/cpuinfo'
  if grep -qwE 'vmx|svm' /proc/cpuinfo; then flags=; fi
else
  flags= # on arm64 a /dev/kvm is there only where EL2 is
fi
if [ "$arch" != "$HOST_ARCH" ]; then
  why="this host is $HOST_ARCH, not $arch"
elif [ ! -c /dev/kvm ]; then
  why='there is no /dev/kvm'
elif [ -n "$flags" ]; then
  why=$flags
elif ! can_open_kvm; then
  why="/dev/kvm can't be opened"
  if [ ! -w /dev/kvm ]; then why+=': you may want to join the kvm group'; fi
else
  why=
fi
[ "${ON_KVM:-}" != emulated ] || why=${why:-'ON_KVM=emulated'}
if [ $where = 1 ]; then
  if [ -n "$why" ]; then echo emulated; else echo here; fi
  exit
fi
[ -n "$why" ] || exec "$@"
[ "$arch-$HOST_ARCH" != x86_64-aarch64 ] || die "there is no emulated machine for $arch on $HOST_ARCH yet"
case $gic in 2 | 3) ;; *) die "-g $gic: the interrupt controller's version is 2 or 3" ;; esac
echo "mote: this host's KVM can't run Linux for $arch ($why): running in an emulated machine (QEMU, slow: times are not representative)" >&2

# --- the emulated machine ---
case $arch in
  x86_64) need_packages qemu-system-x86 ;;
  aarch64) need_packages qemu-system-arm ;;
esac
initrd=$("$HERE/kvm-host/build.sh" "$arch")
host=$(dirname "$initrd")
tree=
[ "$arch" = "$HOST_ARCH" ] || tree=$("$HERE/kvm-host/tree.sh" "$arch")
run=$(mktemp -d "${TMPDIR:-/tmp}/on-kvm.XXXXXX")
qemu='' terminal=''
# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
  if [ -n "$qemu" ]; then kill "$qemu" 2>/dev/null || true; wait "$qemu" || true; fi
  if [ -n "$terminal" ]; then stty "$terminal" </dev/tty; fi
  rm -rf "$run"
}
trap finish EXIT
trap 'exit 143' TERM HUP
trap 'exit 130' INT

# --- its input: the terminal, or what stdin is ---
if [ -t 0 ] && [ -t 1 ]; then interactive=1; fi
rows=24 columns=80
exec 3</dev/null
if [ -t 0 ]; then
  if [ $interactive = 1 ]; then
    terminal=$(stty -g)
    read -r rows columns < <(stty size)
    exec 3</dev/tty # a file description of its own: QEMU changes its flags
  fi
elif true <&0; then
  exec 3<&0
fi 2>/dev/null

quote() { printf "'%s'" "${1//\'/\'\\\'\'}"; }
mkdir "$run/ctl"

# What of this host's files a machine of another architecture shows: whole folders, each once.
folders() {
  local word folder shown=()
  for word in "$PWD" "$HERE/.." "${CARGO_TARGET_DIR:-}" "$MOTE_CACHE_DIR" "${TMPDIR:-}" "$(command -v -- "$1")" "$@"; do
    case $word in /*) ;; *) continue ;; esac
    [ -d "$word" ] || word=$(dirname "$word")
    folder=$(cd "$word" 2>/dev/null && pwd -P) || continue
    case $folder/ in
      // | /usr/* | /etc/* | /dev/* | /proc/* | /sys/* | /run/) continue ;; # the machine has its own
      *[:,\\]*) die "$folder: the emulated machine can't show a folder with : or , or \\ in its name" ;;
    esac
    shown+=("$folder")
  done
  # One that is inside of another is there already.
  printf '%s\n' "${shown[@]}" | LC_ALL=C sort -u |
    awk '{ for (other in all) if (index($0 "/", other "/") == 1) next; all[$0]; print }'
}
[ -z "$tree" ] || folders "$@" >"$run/ctl/folders"
{
  for name in $(compgen -e); do
    case $name in
      MOTE_STARTED | MOTE_APT_UPDATED) ;;
      PATH | LD_LIBRARY_PATH) [ -n "$tree" ] || echo "export $name=$(quote "${!name}")" ;;
      CARGO* | RUST* | MOTE_* | XDG_CACHE_HOME | HOME | CI | TERM | LANG | LC_* | NO_COLOR)
        echo "export $name=$(quote "${!name}")"
        ;;
    esac
  done
  [ -z "$tree" ] || echo "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin MOTE_ARCH=$arch"
  echo "export MOTE_EMULATED=1"
  echo "cd $(quote "$PWD") || exit 125"
  printf exec
  for word; do printf ' %s' "$(quote "$word")"; done
  echo
} >"$run/ctl/command"
share=
[ -z "${ON_KVM_SHARE:-}" ] || share=$(cd "$ON_KVM_SHARE" && pwd)
cat >"$run/ctl/settings" <<END
DATE=$(date +%s) HOST=$(quote "$host") TREE=$(quote "$tree") SHARE=$(quote "$share")
VERBOSE=$verbose INTERACTIVE=$interactive ROWS=$rows COLUMNS=$columns
END

accel=(-accel "tcg,thread=multi")
if [ $counted = 1 ]; then accel=(-accel "tcg,thread=single" -icount "shift=0,sleep=off"); fi
case $arch in
  x86_64)
    # The emulated time stamp counter is the host's own; its rate has to be told, as there is no timer to
    # measure it by: bogomips is twice the rate in MHz.
    khz=$(awk '/^bogomips/ { printf "%d", $3 * 500; exit }' /proc/cpuinfo)
    [ $counted = 0 ] || khz=1000000
    # No XSAVE: this QEMU doesn't let KVM see a guest's XSETBV, and guests would warn of it at boot.
    machine=(-M "microvm,acpi=on,rtc=on,pit=off,pic=off,isa-serial=on" -cpu "${model:-max,la57=off,-xsave}"
      -global virtio-mmio.force-legacy=false)
    # Half a second of self-tests and tables that this machine never uses.
    skip=jent_mod_init,load_system_certificate_list,trace_eval_init,bpf_dummy_struct_ops_init,bpf_tcp_ca_kfunc_init
    options="console=ttyS0 reboot=t tsc=reliable tsc_early_khz=$khz random.trust_cpu=on no_timer_check nokaslr \
rodata=off mitigations=off transparent_hugepage=always cryptomgr.notests initcall_blacklist=$skip"
    ;;
  aarch64)
    if [ "$gic" = 2 ]; then model=${model:-cortex-a57}; fi
    machine=(-M "virt,virtualization=on,gic-version=$gic" -cpu "${model:-neoverse-n1}"
      -global virtio-mmio.force-legacy=false)
    skip=jent_mod_init,load_system_certificate_list,trace_eval_init,bpf_dummy_struct_ops_init,bpf_tcp_ca_kfunc_init
    options="console=ttyAMA0 nokaslr rodata=off mitigations=off transparent_hugepage=always cryptomgr.notests \
initcall_blacklist=$skip"
    ;;
esac
command=("qemu-system-$arch" "${machine[@]}" "${accel[@]}" -smp "$cpus" -m "$memory"
  -nodefaults -no-user-config -display none -no-reboot
  -kernel "$host/kernel" -initrd "$initrd" -append "quiet panic=-1 $options ${ON_KVM_APPEND:-}"
  -serial "file:$run/log"
  -object "rng-random,id=rng,filename=/dev/urandom" -device "virtio-rng-device,rng=rng"
  -fsdev "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"
  -device "virtio-9p-device,fsdev=root,mount_tag=root"
  -fsdev "local,id=ctl,path=$run/ctl,security_model=none"
  -device "virtio-9p-device,fsdev=ctl,mount_tag=ctl"
  -device virtio-serial-device)
if [ -n "$share" ]; then
  command+=(-fsdev "local,id=share,path=$share,security_model=none,multidevs=remap"
    -device "virtio-9p-device,fsdev=share,mount_tag=share")
fi
# Output goes through files: QEMU drops what a pipe or a terminal can't take at once.
touch "$run/out" "$run/err"
command+=(-chardev "file,id=out,path=$run/out" -device "virtconsole,chardev=out"
  -chardev "file,id=err,path=$run/err" -device "virtconsole,chardev=err"
  -chardev "stdio,id=input,signal=off" -device "virtserialport,chardev=input,name=input")

# A byte every other second, which the machine's init throws away. In one of some thirty long runs on a busy
# host the machine's processor was found halted for good, with no timer of QEMU's left to wake it: a lost
# interrupt, by the look of it, which the next one makes up for.
mkfifo "$run/beat"
command+=(-chardev "pipe,id=beat,path=$run/beat" -device "virtserialport,chardev=beat,name=beat")

read -ra more <<<"${ON_KVM_QEMU:-}"
command+=("${more[@]}")

limit=${limit:-$((interactive ? 0 : 600))}
timeout --foreground -k 5 "$limit" "${command[@]}" <&3 >/dev/null &
qemu=$!
tail -qf -c +1 -s 0.05 --pid=$qemu "$run/out" & relays=($!)
tail -qf -c +1 -s 0.05 --pid=$qemu "$run/err" >&2 & relays+=($!)
{ while sleep 2 && kill -0 $qemu; do echo; done <>"$run/beat" >&0; } 2>/dev/null & beat=$!
# watch: ends the machine once it has said nothing for too long.
watch() {
  local last tries=0
  while sleep 5; do
    last=$(stat -c %Y "$run/out" "$run/err" | sort -n | tail -n 1)
    [ $(($(date +%s) - last)) -ge "$quiet" ] || continue
    echo '?' >"$run/beat" # its init answers by a file
    while [ ! -s "$run/ctl/processes" ] && [ $tries -lt 30 ]; do sleep 1 && tries=$((tries + 1)); done
    sleep 2
    touch "$run/stalled"
    kill $qemu
    return
  done
}
watch=
if [ -n "$quiet" ]; then watch 2>/dev/null & watch=$!; fi
result=0
wait $qemu || result=$?
qemu=
kill $beat ${watch:+"$watch"} 2>/dev/null || true
wait "${relays[@]}"
if [ $verbose = 1 ]; then cat "$run/ctl/dmesg" "$run/log" >&2 || true; fi
if [ -f "$run/ctl/status" ]; then exit "$(cat "$run/ctl/status")"; fi
if [ -f "$run/stalled" ]; then
  {
    echo "mote: stalled: it said nothing for $quiet s (on-kvm.sh -q SECONDS). What ran in the emulated machine:"
    cat "$run/ctl/processes" || echo "(it doesn't answer)"
    tail -n 8 "$run/log"
  } >&2
  exit 123
fi
if [ $result = 124 ]; then
  echo "mote: stopped: it took more than $limit s (on-kvm.sh -t SECONDS)" >&2
  exit 124
fi
{
  echo "mote: the emulated machine ended without a result (QEMU: $result). The end of its log:"
  tail -n 8 "$run/log"
} >&2
exit 125
