// The floor on AArch64: an arm64 Image (Linux Documentation/arch/arm64/booting.rst), a GICv3 or else a
// GICv2, PSCI.
#include <stddef.h>

#define RAM (1ull << 30)
#define DEVICES 0x0a000000
#define KERNEL (2 << 20)

static int gic;

// Loads the whole file 2 MiB behind the start of RAM, where it begins with an instruction.
static uint64_t load_kernel(int file, char *ram, int map) {
  struct stat facts;
  check(fstat(file, &facts), "the kernel's size");
  load(file, ram + KERNEL, facts.st_size, 0, map);
  return RAM + KERNEL;
}

static void set(uint32_t group, uint64_t attribute, void *value, const char *what) {
  struct kvm_device_attr attr = {.group = group, .attr = attribute, .addr = (uintptr_t)value};
  check(ioctl(gic, KVM_SET_DEVICE_ATTR, &attr), what);
}

static void create_irqchip(int vm) {
  struct kvm_create_device device = {.type = KVM_DEV_TYPE_ARM_VGIC_V3};
  uint64_t distributor = 0x08000000, interface = 0x08010000;
  uint64_t redistributors = 123ull << 52 | 0x080a0000; // as many as fit in front of the serial port
  uint32_t interrupts = 64;
  int v2 = ioctl(vm, KVM_CREATE_DEVICE, &device) < 0;
  if (v2) {
    device.type = KVM_DEV_TYPE_ARM_VGIC_V2;
    check(ioctl(vm, KVM_CREATE_DEVICE, &device), "KVM_CREATE_DEVICE");
  }
  gic = device.fd;
  if (v2) {
    set(KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V2_ADDR_TYPE_DIST, &distributor, "distributor");
    set(KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V2_ADDR_TYPE_CPU, &interface, "CPU interface");
  } else {
    set(KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, &distributor, "distributor");
    set(KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, &redistributors, "redistributors");
  }
  set(KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &interrupts, "interrupts");
}

static void finish_irqchip(void) {
  set(KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL, "interrupt controller");
}

static struct kvm_vcpu_init target;

static void prepare_vcpus(int kvm, int vm) {
  (void)kvm;
  check(ioctl(vm, KVM_ARM_PREFERRED_TARGET, &target), "KVM_ARM_PREFERRED_TARGET");
}

static void set_up_vcpu(int vcpu, int number) {
  struct kvm_vcpu_init init = target;
  init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
  if (number) init.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
  check(ioctl(vcpu, KVM_ARM_VCPU_INIT, &init), "KVM_ARM_VCPU_INIT");
}

static void set_register(int vcpu, size_t offset, uint64_t value) {
  struct kvm_one_reg one = {.id = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | offset / 4,
                            .addr = (uintptr_t)&value};
  check(ioctl(vcpu, KVM_SET_ONE_REG, &one), "KVM_SET_ONE_REG");
}

// As Linux is entered: EL1 with all interrupts masked, X0 the device tree's address.
static void set_entry(int vcpu, uint64_t entry) {
  set_register(vcpu, offsetof(struct kvm_regs, regs.pstate), 0x3c5);
  set_register(vcpu, offsetof(struct kvm_regs, regs.pc), entry);
  set_register(vcpu, offsetof(struct kvm_regs, regs.regs), RAM);
}
