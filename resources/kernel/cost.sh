#!/bin/bash
# cost.sh MODE [ARGS...]: what booting a guest's kernel costs, in counts that depend on no machine's speed.
#   boot [-k KERNEL] [-f FLAGS] [MOTE RUN ARGS]   one boot; FLAGS go with --cmdline. Without arguments, with
#                                          the default guest's root file system on a drive
#   flags [-k KERNEL] [FILE]               each default flag left out, and each line of FILE
#                                          (candidates.flags) added, one at a time
#   devices [-k KERNEL]                    each device, beside a VM without it
#   kernels NAME=KERNEL[,FLAGS]...         kernels beside each other, with no device, and an initramfs of
#                                          nothing but the default guest's init
#   options [NAME...]                      builds the kernel anew for each line of candidates.options, or
#                                          for those named, with that one change to ARCH.config
#   initcalls [-k KERNEL] [-f FLAGS] [MOTE RUN ARGS]   one boot by what the kernel calls at boot, and by function
# MOTE_ARCH is the guest's architecture, by default this host's; on AArch64 only kernels with 39 bits of addresses
# can be counted, such as the default one.
# A table in Markdown goes to stdout. It runs in the emulated machine of on-kvm.sh in any case, whose
# QEMU counts with the plugin count.c, from the first entry into the guest to its init's first instruction.
#   RUNS=3          boots for each line, of which the medians are told (one is right to a tenth of a percent)
#   MOTE=PATH       the mote to run; else this folder's release build, or else its debug build
#   COST_TREE=DIR   where `options` keeps its sources and objects (1.5 GB), in the cache by default
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../common.sh
. "$HERE/../common.sh"
# shellcheck source-path=SCRIPTDIR source=tree.sh
. "$HERE/tree.sh"

usage() {
  sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
  exit 2
}
[ $# -ge 1 ] || usage
mode=$1
shift
guest=$MOTE_CACHE_DIR/guest/$MOTE_ARCH
case $MOTE_ARCH in
  x86_64) file=vmlinux ;;
  aarch64) file=Image ;;
esac
kernel=$guest/$file
flags=
while [ "${1:-}" = -k ] || [ "${1:-}" = -f ]; do
  if [ "$1" = -k ]; then kernel=$(realpath "$2"); else flags=$2; fi
  shift 2
done

if [ -z "${MOTE:-}" ]; then
  for MOTE in "${CARGO_TARGET_DIR:-$HERE/../../target}/$MOTE_ARCH-unknown-linux-gnu"/{release,debug}/mote; do
    [ ! -x "$MOTE" ] || break
  done
fi
[ -x "$MOTE" ] || die "there is no mote at $MOTE: cargo build --release, or MOTE=PATH"
MOTE=$(realpath "$MOTE")
need_packages gcc libc6-dev
"$HERE/../guest.sh" >/dev/null

# In /tmp's stead the cache, which the emulated machine sees as it is.
work=$(mktemp -d "$MOTE_CACHE_DIR/.cost.XXXXXX")
trap 'rm -rf "$work"' EXIT
gcc -O2 -shared -fPIC -o "$work/count.so" "$HERE/count.c"
: >"$work/plan"
with_memory=1

# plan NAME KERNEL FLAGS [MOTE RUN ARGS]: a line of the table; FLAGS go with --cmdline.
plan() { echo "$1|$2|$3|${4:-}|$(loaded "$2")" >>"$work/plan"; }
# loaded KERNEL: the KiB of it that are copied to the guest. Most of a vmlinux is symbols, and gaps of 2 MiB.
loaded() {
  local size sum=0
  [ "$MOTE_ARCH" = x86_64 ] || sum=$(stat -Lc %s "$1")
  while read -r size; do sum=$((sum + size)); done < <(readelf -lW "$1" 2>/dev/null | awk '$1 == "LOAD" { print $5 }')
  echo $((sum / 1024))
}
root="--rootfs $guest/rootfs.ext4,ro"

# count_boots [PLUGIN ARGS]: boots what is planned; leaves "NAME|count|..." for each boot in $work/results.
count_boots() {
  touch "$work/counts" "$work/results" "$work/memory"
  # No time limits inside: where nothing runs, that machine's clock jumps to the next timer.
  cat >"$work/inside" <<'SCRIPT'
cd "$1" || exit
truncate -s 64M /tmp/disk
ip tuntap add tap0 mode tap && ip link set tap0 up
head -n 1 plan | while IFS='|' read -r name kernel flags args _; do
  # What is in no cache yet makes the first boot take a little longer.
  # shellcheck disable=SC2086 # several arguments
  "$3" run --console none --kernel "$kernel" --cmdline "$flags mote.run=true" $args </dev/null
done >/tmp/said 2>&1
while IFS='|' read -r name kernel flags args _; do
  for run in $(seq "$2"); do
    before=$(wc -l <counts)
    # shellcheck disable=SC2086 # several arguments
    "$3" run --console none --timings json=/tmp/report --kernel "$kernel" \
      --cmdline "$flags mote.run=true" $args </dev/null >/tmp/said 2>&1
    if [ "$(wc -l <counts)" = $((before + 1)) ]; then
      row=$(tail -n 1 counts | tr ' ' '|')
      exits=$(grep '"total"' /tmp/report | tr -dc 0-9)
      echo "$name|$row|$exits" >>results
    else
      echo "mote: no count of '$name':" >&2
      cat /tmp/said >&2
    fi
  done
  [ "$4" = 1 ] || continue
  # The memory that the kernel doesn't leave to programs, once.
  # shellcheck disable=SC2086
  free=$("$3" run --console hvc --kernel "$kernel" $args --cmdline \
    "$flags console=hvc0 mote.run=\"grep MemAvailable /proc/meminfo\"" </dev/null 2>/dev/null | tr -dc 0-9)
  echo "$name|${free:-0}" >>memory
done <plan
SCRIPT
  ON_KVM=emulated ON_KVM_SHARE=$work ON_KVM_QEMU="-plugin $work/count.so,arch=$MOTE_ARCH,out=$work/counts${1:+,$1}" \
    "$HERE/../on-kvm.sh" -a "$MOTE_ARCH" -n -t 3000 -- bash "$work/inside" "$work" "${RUNS:-3}" "$MOTE" "$with_memory" || die "no counts"
}

# table: the medians; differences are those to the first line.
table() {
  awk -F'|' -v runs="${RUNS:-3}" '
    function median(column,   values, n, i) {
      n = split(list[name, column], values, " ")
      for (i = 1; i <= n; i++) values[i] += 0
      for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++)
        if (values[j] < values[i]) { t = values[i]; values[i] = values[j]; values[j] = t }
      spread = values[n] - values[1]
      return values[int((n + 1) / 2)]
    }
    FILENAME ~ /memory$/ { memory[$1] = $2; next }
    FILENAME ~ /results$/ { for (i = 2; i <= NF; i++) list[$1, i] = list[$1, i] " " $i; next }
    FNR == 1 {
      print "| | instructions | difference | spread | string steps | entries | exits to user space | loaded KiB | kernel memory KiB |"
      print "|---|---|---|---|---|---|---|---|---|"
    }
    {
      name = $1
      if (list[name, 2] == "") { print "| " name " | does not boot |"; next }
      count = median(2)
      if (!base) { base = count; difference = "" }
      else difference = sprintf("%+d (%+.1f %%)", count - base, 100 * (count - base) / base)
      was = spread
      printf "| %s | %d | %s | %d | %d | %d | %d | %d | %s |\n", name, count, difference, was,
        median(3), median(4), median(6), $5, memory[name] && $4 !~ /--memory/ ? 131072 - memory[name] : "-"
    }' "$work/results" "$work/memory" "$work/plan"
}

# default_flags: mote's own, of a VM without ACPI and serial port, from where they stand in its code.
default_flags() {
  local source=$HERE/../../src/arch/$MOTE_ARCH/cmdline.rs
  sed -nE '/DEFAULTS: /,/\];/s/^ *"(.*)",$/\1/p; s/^pub const WITHOUT_[A-Z]+: &str = "(.*)";/\1/p' "$source"
}

case $mode in
  boot)
    # shellcheck disable=SC2086 # several words
    [ $# -gt 0 ] || set -- $root
    plan boot "$kernel" "$flags" "$*"
    count_boots
    table
    ;;
  flags)
    with_memory=0 # a flag's is in the noise
    plan 'the default flags' "$kernel" '' "$root"
    mapfile -t defaults < <(default_flags)
    plan 'none but root=' "$kernel" "root=/dev/vda ro" "$root --cmdline-only"
    for flag in "${defaults[@]}"; do
      others=$(printf '%s\n' "${defaults[@]}" | grep -vxF -- "$flag" | paste -sd ' ')
      plan "without $flag" "$kernel" "$others root=/dev/vda ro" "$root --cmdline-only"
    done
    while read -r flag; do
      plan "with $flag" "$kernel" "$flag" "$root"
    done < <(grep -v '^#' "${1:-$HERE/candidates.flags}")
    count_boots
    table
    ;;
  devices)
    image=/tmp/disk # made inside: a file there can be mapped
    plan 'one drive' "$kernel" '' "$root"
    gzip -dc "$guest/initrd.cpio.gz" >"$work/initrd"
    plan 'an initramfs in its stead' "$kernel" '' "--initrd $work/initrd"
    plan 'the same, compressed (gzip)' "$kernel" '' "--initrd $guest/initrd.cpio.gz"
    plan 'without --rng' "$kernel" '' "$root --rng off"
    plan 'a second drive' "$kernel" '' "$root --disk $image"
    plan 'a second drive, mapped' "$kernel" '' "$root --disk $image,dax"
    plan 'a network' "$kernel" '' "$root --net tap=tap0"
    plan vsock "$kernel" '' "$root --vsock cid=3,socket=/tmp/v"
    plan balloon "$kernel" '' "$root --balloon"
    plan '256 MiB' "$kernel" '' "$root --memory 256M"
    plan '1 GiB' "$kernel" '' "$root --memory 1G"
    count_boots
    table
    ;;
  kernels)
    need_packages cpio
    with_memory=0 # there is no program to tell it
    mkdir -p "$work/tree/dev"
    (cd "$work/tree" && gzip -dc "$guest/initrd.cpio.gz" | cpio -id --quiet sbin/init && mv sbin/init init && rmdir sbin)
    cpio_of "$work/tree" >"$work/initrd"
    for pair; do
      file=${pair#*=}
      flags=
      case $file in *,*) flags=${file#*,} file=${file%%,*} ;; esac
      plan "${pair%%=*}" "$(realpath "$file")" "$flags" "--initrd $work/initrd --rng off"
    done
    count_boots
    table
    ;;
  options)
    tree=${COST_TREE:-$MOTE_CACHE_DIR/kernel-tree-$MOTE_ARCH}
    need_kernel_tools
    make_command
    mkdir -p "$tree" "$tree/results"
    cd "$tree"
    [ -e Makefile ] || unpack_kernel
    plan 'the default kernel' "$kernel" '' "$root"
    while read -r name changes; do
      [ $# = 0 ] || printf '%s\n' "$@" | grep -qxF -- "$name" || continue
      for change in $changes; do
        case $change in
          -*) echo "# CONFIG_${change#-} is not set" ;;
          +*=*) echo "CONFIG_${change#+}" ;;
          +*) echo "CONFIG_${change#+}=y" ;;
        esac
      done >"$work/fragment"
      result=$tree/results/$(hash_of "$work/fragment" "$HERE/$MOTE_ARCH.config")
      if [ ! -e "$result" ]; then
        say "building: $name"
        configure_kernel "$HERE/$MOTE_ARCH.config" "$work/fragment"
        check_config "$work/fragment"
        "${make[@]}" "$file" >"$tree/log" 2>&1 || die "it did not compile: $tree/log"
        case $MOTE_ARCH in
          x86_64) "${tools}objcopy" --strip-debug vmlinux "$result.new" ;;
          aarch64) cp arch/arm64/boot/Image "$result.new" ;;
        esac
        mv "$result.new" "$result"
      fi
      plan "$name" "$result" '' "$root"
    done < <(grep -vE '^(#|$)' "$HERE/candidates.options")
    count_boots
    table
    ;;
  initcalls)
    # shellcheck disable=SC2086 # several words
    [ $# -gt 0 ] || set -- $root
    plan boot "$kernel" "$flags" "$*"
    nm "$(dirname "$(readlink -f "$kernel")")/vmlinux" >"$work/symbols"
    # What initcalls are named after, and the larger steps of start_kernel (init/main.c) between them.
    awk '
      $3 ~ /^__initcall__kmod_/ {
        sub(/^__initcall__kmod_.*__[0-9]+_[0-9]+_/, "", $3); sub(/(early|[0-7]s?|rootfs|con)$/, "", $3); want[$3]
      }
      $2 ~ /[tTwW]/ && !($3 in address) { address[$3] = $1 }
      END {
        n = split("x86_64_start_kernel start_kernel setup_arch e820__memory_setup parse_early_param init_mem_mapping " \
          "paging_init free_area_init setup_per_cpu_areas static_call_init vfs_caches_init mm_core_init kmem_cache_init " \
          "poking_init sched_init radix_tree_init workqueue_init_early rcu_init early_irq_init init_IRQ init_timers " \
          "timekeeping_init random_init perf_event_init console_init x86_late_time_init fork_init proc_root_init " \
          "arch_cpu_finalize_init alternative_instructions rest_init kernel_init kernel_init_freeable smp_init " \
          "sched_init_smp page_alloc_init_late driver_init wait_for_initramfs prepare_namespace " \
          "async_synchronize_full free_initmem mark_rodata_ro run_init_process " \
          "early_map_kernel setup_machine_fdt arm64_memblock_init bootmem_init unflatten_device_tree psci_dt_init " \
          "smp_init_cpus smp_prepare_boot_cpu time_init of_clk_init smp_prepare_cpus smp_cpus_done " \
          "apply_alternatives_all setup_system_features", more, " ")
        for (i = 1; i <= n; i++) want[more[i]]
        for (f in want) if (f in address) print address[f]
      }' "$work/symbols" >"$work/marks"
    with_memory=0
    RUNS=1 count_boots "profile=$work/profile,marks=$work/marks"
    # Boot 1: number 0 was to warm the caches.
    awk '
      FILENAME ~ /symbols$/ { if ($2 ~ /[tTwW]/) name[$1] = $3; next }
      $1 == "mark" && $2 == 1 { if (last != "") cost[last] += $4 - at; last = name[$3]; at = $4 }
      END { for (f in cost) printf "%d %s\n", cost[f], f }' "$work/symbols" "$work/profile" | sort -rn >"$work/calls"
    # A block of code belongs to the last symbol that isn't behind it.
    { awk '$2 ~ /[tTwW]/ { print $1, "=", $3 }' "$work/symbols"
      awk '$1 == "1" && length($2) == 16 { print $2, $3 }' "$work/profile"; } |
      LC_ALL=C sort -k1,1 -k2,2r | awk '$2 == "=" { f = $3; next } { sum[f] += $2 } END { for (f in sum) print sum[f], f }' |
      sort -rn >"$work/functions"
    printf '| called at boot | instructions until the next | | function alone | instructions and string steps |\n|---|---|---|---|---|\n'
    paste -d' ' "$work/calls" "$work/functions" | head -n "${TOP:-60}" | awk 'NF == 4 { printf "| %s | %s | | %s | %s |\n", $2, $1, $4, $3 }'
    ;;
  *) usage ;;
esac
