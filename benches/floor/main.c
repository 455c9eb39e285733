// The floor under every monitor's start: the ioctls that a VM with one vCPU, one drive's worth of
// events and a kernel of some MiB can't do without, and nothing else. What mote takes longer than
// this is mote's own. Built and run by benches/launch; prints what KVM_CREATE_VCPU takes, in
// microseconds, for each vCPU but the first.
//
//   floor KERNEL MEMORY_MIB thp|small|pool|prefault|map VCPUS
//
// thp, small: with transparent huge pages, and without. pool: pages of 2 MiB from the host's pool.
// prefault: thp, and all of it there from the start. map: thp, and the kernel's whole pages mapped
// instead of read. The kernel is an ELF file with a PVH note, of which this loads the PT_LOAD segments.
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
      .memory_size = size, .userspace_addr = (uintptr_t)ram};
  check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
  check(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000), "KVM_SET_TSS_ADDR");

  int file = check(open(argv[1], O_RDONLY | O_CLOEXEC), argv[1]);
  static char head[4096];
  check(pread(file, head, sizeof head, 0), "reading the kernel");
  Elf64_Ehdr *elf = (Elf64_Ehdr *)head;
  uint32_t entry = 0;
  for (int i = 0; i < elf->e_phnum; i++) {
    Elf64_Phdr *segment = (Elf64_Phdr *)(head + elf->e_phoff) + i;
    if (segment->p_type == PT_LOAD) {
      size_t mapped = strcmp(pages, "map") ? 0 : segment->p_filesz & ~4095ul; // aligned, in this bench
      if (mapped && mmap(ram + segment->p_paddr, mapped, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_FIXED, file, segment->p_offset) == MAP_FAILED)
        check(-1, "mapping a segment");
      check(pread(file, ram + segment->p_paddr + mapped, segment->p_filesz - mapped,
                  segment->p_offset + mapped), "a segment");
    } else if (segment->p_type == PT_NOTE) {
      static char notes[4096];
      ssize_t length = pread(file, notes, sizeof notes, segment->p_offset);
      for (ssize_t at = 0; at + 20 <= length;) { // XEN_ELFNOTE_PHYS32_ENTRY
        uint32_t *note = (uint32_t *)(notes + at);
        if (note[2] == 18 && !memcmp(note + 3, "Xen", 4)) entry = note[4];
        at += 12 + ((note[0] + 3) & ~3) + ((note[1] + 3) & ~3);
      }
    }
  }
  close(file);

  check(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
  struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
  check(ioctl(vm, KVM_CREATE_PIT2, &pit), "KVM_CREATE_PIT2");
  for (int i = 0; i < 2; i++) { // a drive and an entropy device
    struct kvm_irqfd irq = {.fd = eventfd(0, EFD_CLOEXEC), .gsi = 5 + i};
    check(ioctl(vm, KVM_IRQFD, &irq), "KVM_IRQFD");
    struct kvm_ioeventfd event = {.addr = 0xd0001050 + i * 0x1000,
                                  .len = 4,
                                  .fd = eventfd(0, EFD_CLOEXEC),
                                  .flags = KVM_IOEVENTFD_FLAG_DATAMATCH};
    check(ioctl(vm, KVM_IOEVENTFD, &event), "KVM_IOEVENTFD");
  }

  static struct {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entries[256];
  } cpuid = {.head.nent = 256};
  check(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
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
    check(ioctl(vcpu, KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");
  }
  struct kvm_sregs sregs;
  check(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
  struct kvm_segment flat = {.limit = ~0u, .selector = 0x10, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1};
  sregs.cs = flat;
  flat.selector = 0x18, flat.type = 3;
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat;
  sregs.cr0 |= 1;
  check(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
  struct kvm_regs regs = {.rip = entry, .rflags = 2};
  check(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");

  if (vcpus > 1) {
    printf("{\"create_vcpu_us\": %.1f}\n", created / (vcpus - 1));
    fflush(stdout);
  }
  run->immediate_exit = 1; // entered and left at once: what counts is the way here
  ioctl(vcpu, KVM_RUN, 0);
  return 0;
}
