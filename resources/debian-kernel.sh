#!/bin/bash
# debian-kernel.sh: a stock distribution kernel for the tests: Debian's cloud kernel, with the modules
# that it needs to find its devices and mount a disk, in an initramfs.
#   CACHE/debian/ARCH/vmlinuz, initrd.cpio.gz   (links into the folder of that version)
# MOTE_ARCH is the guest's architecture; by default it is this host's.
# With root=... on the command line the disk's own init takes over; otherwise the initramfs's does, which
# is the default guest's (see rootfs/init.c for what it understands). With mote.modules=all the modules of
# further devices and file systems are loaded first.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$HERE/common.sh"

META=linux-image-6.12-cloud-$(debian_arch "$MOTE_ARCH")
MODULES=(virtio_mmio virtio_blk virtio_rng virtio_net ext4)
MORE=(virtio_pmem nd_pmem virtio_balloon vmw_vsock_virtio_transport xfs erofs) # the rest is built in

"$HERE/rootfs/build.sh"
base=$(readlink -f "$MOTE_CACHE_DIR/guest/$MOTE_ARCH/initrd.cpio.gz")
inputs=$(hash_of "$base" "${BASH_SOURCE[0]}" "$MOTE_ARCH")
cached() { find "$MOTE_CACHE_DIR" -maxdepth 1 -name "debian-*-$inputs" 2>/dev/null | sort -V | tail -1 || true; }
use() {
  local file
  for file in vmlinuz initrd.cpio.gz; do
    point "$MOTE_CACHE_DIR/debian/$MOTE_ARCH/$file" "../../$(basename "$1")/$file"
  done
}
debian=$(cached)
if [ -z "$debian" ]; then
  say "the stock Debian kernel isn't in the cache yet (5 s; downloads a 35 MB kernel package)"
  need_packages cpio kmod xz-utils
  lock "debian-$MOTE_ARCH"
  debian=$(cached)
fi
if [ -z "$debian" ]; then
  work_dir
  package=$(foreign_apt "$MOTE_ARCH" newest_package "$META")
  [ -n "$package" ] || die "apt knows no $META: Debian 12 has it in its security suite, Debian 13 in main"
  foreign_apt "$MOTE_ARCH" fetch_package "$package" "$WORK/package"
  version=${package#linux-image-}
  mkdir -p "$WORK/out" "$WORK/tree/modules"
  cp "$WORK/package/boot/vmlinuz-$version" "$WORK/out/vmlinuz"
  [ -d "$WORK/package/lib/modules" ] || ln -s usr/lib "$WORK/package/lib" # newer packages have it in /usr
  copy_modules "$WORK/package" "$version" "$WORK/tree/modules" "${MODULES[@]}"
  copy_modules "$WORK/package" "$version" "$WORK/tree/more" "${MORE[@]}"
  while read -r module; do # what the first ones needed too
    rm -f "$WORK/tree/more/$module.ko"
    sed -i "/^$module\$/d" "$WORK/tree/more/order"
  done <"$WORK/tree/modules/order"

  cat >"$WORK/tree/init" <<'INIT'
#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
for module in $(busybox cat /modules/order); do busybox insmod "/modules/$module.ko"; done
case " $(busybox cat /proc/cmdline) " in
  *" mote.modules=all "*) for module in $(busybox cat /more/order); do busybox insmod "/more/$module.ko"; done ;;
esac
for word in $(busybox cat /proc/cmdline); do
  case $word in
    root=*)
      busybox mount -o ro "${word#root=}" /mnt || exec busybox sh
      busybox mount --move /dev /mnt/dev
      busybox umount /proc
      exec busybox switch_root /mnt /sbin/init
      ;;
  esac
done
busybox umount /proc
exec /sbin/init
INIT
  chmod 755 "$WORK/tree/init"
  # An initramfs may consist of several archives; a later one's files replace an earlier one's.
  { cat "$base"; cpio_of "$WORK/tree" | gzip -n; } >"$WORK/out/initrd.cpio.gz"
  debian=$MOTE_CACHE_DIR/debian-$version-$inputs
  into_cache "$WORK/out" "$debian"
  say "the stock Debian kernel is ready: $debian"
fi
use "$debian"
