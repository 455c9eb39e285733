// The floor under every monitor's start: the ioctls that a VM with one vCPU, one drive's worth of
// events and a kernel of some MiB can't do without, and nothing else. What mote takes longer than
// this is mote's own. Built and run by benches/launch; prints what KVM_CREATE_VCPU takes, in
// microseconds, for each vCPU but the first.
//
//   floor KERNEL MEMORY_MIB thp|small|pool|prefault|map VCPUS
//
// thp, small: with transparent huge pages, and without. pool: pages of 2 MiB from the host's pool.
// prefault: thp, and all of it there from the start. map: thp, and the kernel's whole pages mapped
// instead of read. What differs between processors is in a file for each.
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double now(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int check(int result, const char *what) {
  if (result < 0) {
    perror(what);
    exit(1);
  }
  return result;
}

// A part of the kernel's file: read, or its whole pages mapped. Place and offset are aligned in this bench.
static void load(int file, char *to, size_t length, off_t offset, int map) {
  size_t mapped = map ? length & ~((size_t)sysconf(_SC_PAGESIZE) - 1) : 0;
  if (mapped && mmap(to, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, offset) == MAP_FAILED)
    check(-1, "mapping the kernel");
  check(pread(file, to + mapped, length - mapped, offset + mapped), "reading the kernel");
}

#if defined(__x86_64__)
#include "x86_64.h"
#elif defined(__aarch64__)
#include "aarch64.h"
#endif

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  size_t size = (size_t)atoi(argv[2]) << 20, huge = 2 << 20;
  const char *pages = argv[3];
  int vcpus = atoi(argv[4]), pool = !strcmp(pages, "pool"), small = !strcmp(pages, "small");

  int kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
  check(ioctl(kvm, KVM_GET_API_VERSION, 0), "KVM_GET_API_VERSION");
  int vm = check(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
  int flags = pool ? MAP_HUGETLB | 21 << MAP_HUGE_SHIFT : MAP_NORESERVE;
  char *map = mmap(NULL, pool ? size : size + huge, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  if (map == MAP_FAILED) check(-1, "guest memory");
  char *ram = (char *)(((uintptr_t)map + huge - 1) & ~(huge - 1));
  if (!pool) madvise(ram, size, small ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
  if (!strcmp(pages, "prefault")) check(madvise(ram, size, MADV_POPULATE_WRITE), "prefault");
  struct kvm_userspace_memory_region region = {
      .guest_phys_addr = RAM, .memory_size = size, .userspace_addr = (uintptr_t)ram};
  check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");

  int file = check(open(argv[1], O_RDONLY | O_CLOEXEC), argv[1]);
  uint64_t entry = load_kernel(file, ram, !strcmp(pages, "map"));
  close(file);

  create_irqchip(vm);
  prepare_vcpus(kvm, vm);
  int run_size = check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
  int vcpu = -1;
  struct kvm_run *run = NULL;
  double created = 0;
  for (int i = vcpus - 1; i >= 0; i--) { // vCPU 0, which runs, comes last
    double before = now(CLOCK_MONOTONIC);
    vcpu = check(ioctl(vm, KVM_CREATE_VCPU, i), "KVM_CREATE_VCPU");
    if (i < vcpus - 1) created += now(CLOCK_MONOTONIC) - before;
    run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED) check(-1, "mapping kvm_run");
    set_up_vcpu(vcpu, i);
  }
  finish_irqchip();
  for (int i = 0; i < 2; i++) { // a drive and an entropy device
    struct kvm_irqfd irq = {.fd = eventfd(0, EFD_CLOEXEC), .gsi = 5 + i};
    check(ioctl(vm, KVM_IRQFD, &irq), "KVM_IRQFD");
    struct kvm_ioeventfd event = {.addr = DEVICES + 0x50 + i * 0x1000,
                                  .len = 4,
                                  .fd = eventfd(0, EFD_CLOEXEC),
                                  .flags = KVM_IOEVENTFD_FLAG_DATAMATCH};
    check(ioctl(vm, KVM_IOEVENTFD, &event), "KVM_IOEVENTFD");
  }
  set_entry(vcpu, entry);

  if (vcpus > 1) {
    printf("{\"create_vcpu_us\": %.1f}\n", created / (vcpus - 1));
    fflush(stdout);
  }
  run->immediate_exit = 1; // entered and left at once: what counts is the way here
  ioctl(vcpu, KVM_RUN, 0);
  return 0;
}
