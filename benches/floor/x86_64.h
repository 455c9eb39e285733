// The floor on x86_64: a kernel in ELF with a PVH note, PC interrupt controllers, CPUID.

#define RAM 0
#define DEVICES 0xd0001000

// Loads the PT_LOAD segments; gives the entry that the note tells.
static uint64_t load_kernel(int file, char *ram, int map) {
  static char head[4096];
  check(pread(file, head, sizeof head, 0), "reading the kernel");
  Elf64_Ehdr *elf = (Elf64_Ehdr *)head;
  uint32_t entry = 0;
  for (int i = 0; i < elf->e_phnum; i++) {
    Elf64_Phdr *segment = (Elf64_Phdr *)(head + elf->e_phoff) + i;
    if (segment->p_type == PT_LOAD) {
      load(file, ram + segment->p_paddr, segment->p_filesz, segment->p_offset, map);
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
  return entry;
}

static void create_irqchip(int vm) {
  check(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000), "KVM_SET_TSS_ADDR");
  check(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
  struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
  check(ioctl(vm, KVM_CREATE_PIT2, &pit), "KVM_CREATE_PIT2");
}

static void finish_irqchip(void) {}

static struct {
  struct kvm_cpuid2 head;
  struct kvm_cpuid_entry2 entries[256];
} cpuid = {.head.nent = 256};

static void prepare_vcpus(int kvm, int vm) {
  (void)vm;
  check(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
}

static void set_up_vcpu(int vcpu, int number) {
  (void)number;
  check(ioctl(vcpu, KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");
}

// As PVH enters a kernel: 32-bit protected mode, flat segments.
static void set_entry(int vcpu, uint64_t entry) {
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
}
