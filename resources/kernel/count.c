// count.c: a plugin of QEMU's translator that counts what a guest of the emulated machine's KVM executes
// from its first instruction to the first one of its init. Built and loaded by cost.sh.
//
// The machine's only CPU runs its own Linux, KVM and mote, and the guest. On x86_64 guest code is what runs
// between a VMRUN and the instruction behind it, where each exit from the guest continues. On AArch64 it is told by
// its addresses: the default guest's kernel has 39 bits of them, and so others than the machine's own.
//   arch=aarch64  for that; x86_64 otherwise
//   out=FILE      a line is added for each boot: "instructions steps entries host"
//     instructions  of the guest's kernel; a repeated string instruction counts once, as in a processor
//     steps         the repetitions of those, each of 1 to 8 bytes copied or cleared
//     entries       into the guest (VMRUN): one more than there were exits to KVM, for whatever reason
//     host          instructions of the machine's own Linux, KVM and mote between first entry and init (x86_64)
//   profile=FILE  also, for each block of code: "boot address instructions", the latter with all steps
//   marks=FILE    addresses of functions (hexadecimal, one a line), each told in the file profile=
//                 when it is called: "mark boot address instructions", those up to there
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// From QEMU's documented plugin interface, version 1 (docs/devel/tcg-plugins.rst); Debian has no header.
typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct qemu_info_t qemu_info_t;
enum { CB_NO_REGS = 0, INLINE_ADD_U64 = 0 };
typedef void (*exec_t)(unsigned int cpu, void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, exec_t, int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, exec_t, int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, int op, void *counter, uint64_t add);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

// --- the counts ---

static uint64_t executed;                // every instruction of the machine, each step of a string's too
static uint64_t entered_at, left_at;     // `executed` at the last VMRUN and at the exit after it
static uint64_t instructions, steps, entries, host; // of this boot
static bool in_guest, booting, aarch64;
static unsigned boots;
static FILE *out, *profile;

struct block {
    uint64_t address, length, runs;
    struct block *next;
};
static struct block *blocks;

static void start_boot(void) {
    booting = true;
    instructions = steps = host = 0;
    entries = 1;
    entered_at = executed;
    for (struct block *b = blocks; b; b = b->next) b->runs = 0;
}

static void end_boot(void) {
    booting = false;
    instructions += executed - entered_at;
    fprintf(out, "%lu %lu %lu %lu\n", instructions - steps, steps, entries, host);
    fflush(out);
    for (struct block *b = blocks; profile && b; b = b->next)
        if (b->runs) fprintf(profile, "%u %lx %lu\n", boots, b->address, b->runs * b->length);
    if (profile) fflush(profile);
    boots++;
}

static uint64_t *marks;
static size_t mark_count;

static void on_mark(unsigned cpu, void *data) {
    uint64_t now = instructions + executed - entered_at - steps;
    if (in_guest && booting) fprintf(profile, "mark %u %lx %lu\n", boots, (uint64_t)(uintptr_t)data, now);
}

static uint64_t after_vmrun; // the address behind KVM's VMRUN, where every exit continues

static void on_vmrun(unsigned cpu, void *data) {
    in_guest = true;
    entered_at = executed;
    entries++;
    if (booting) host += executed - left_at;
}

static void on_guest_exit(unsigned cpu, void *data) {
    if (!in_guest) return;
    in_guest = false;
    left_at = executed;
    if (booting) instructions += executed - entered_at;
}

// The kernel before it has page tables of its own: where every boot starts, and where none is any more
// after its first moments. So a boot that never came to its init ends here, uncounted.
static void on_entry(unsigned cpu, void *data) {
    if (in_guest && (!booting || instructions + executed - entered_at > 5000000)) start_boot();
}

static void on_user(unsigned cpu, void *data) {
    if (in_guest && booting) end_boot();
}

static void on_string(unsigned cpu, void *data) {
    static uint64_t last_address, last_executed;
    uint64_t address = (uintptr_t)data;
    if (address == last_address && executed == last_executed + 1 && in_guest && booting) steps++;
    last_address = address;
    last_executed = executed;
}

static void on_block(unsigned cpu, void *data) {
    if (in_guest && booting) ((struct block *)data)->runs++;
}

// --- the same on AArch64, where only the guest's kernel's instructions count as executed ---

static void on_guest(unsigned cpu, void *data) {
    if (!in_guest) entries++;
    in_guest = true;
}

static void on_host(unsigned cpu, void *data) { in_guest = false; }

// The machine's own Linux begins at the same address, long before. Its boot isn't told: between its kernel and
// its init there is more than the start.
static void on_start(unsigned cpu, void *data) { start_boot(); }

// --- what to watch ---

static bool is_vmrun(const uint8_t *code, size_t size) { return size == 3 && !memcmp(code, "\x0f\x01\xd8", 3); }

static bool is_repeated_string(const uint8_t *code, size_t size) {
    bool repeated = false;
    for (size_t i = 0; i < size; i++) {
        uint8_t byte = code[i];
        if (byte == 0xf2 || byte == 0xf3) repeated = true;
        else if (byte != 0x66 && byte != 0x67 && (byte & 0xf0) != 0x40) // other prefixes
            return repeated && ((byte >= 0x6c && byte <= 0x6f) || (byte >= 0xa4 && byte <= 0xa7) ||
                                (byte >= 0xaa && byte <= 0xaf));
    }
    return false;
}

// A kernel lies at 16 MiB and up; init isn't linked there, and nothing else of a guest's runs in the
// lower half of the addresses but the start of further CPUs (below 1 MiB).
static bool is_entry(uint64_t address) { return address >= 16 << 20 && address < 64 << 20; }
static bool is_user(uint64_t address) {
    return address >= 1 << 20 && address < 1ul << 47 && !is_entry(address);
}

static void watch_x86_64(struct qemu_plugin_tb *tb, uint64_t address) {
    if (address == after_vmrun) qemu_plugin_register_vcpu_tb_exec_cb(tb, on_guest_exit, CB_NO_REGS, NULL);
    if (is_entry(address)) qemu_plugin_register_vcpu_tb_exec_cb(tb, on_entry, CB_NO_REGS, NULL);
    if (is_user(address)) qemu_plugin_register_vcpu_tb_exec_cb(tb, on_user, CB_NO_REGS, NULL);
}

static void watch_x86_64_instruction(struct qemu_plugin_insn *insn) {
    const uint8_t *code = qemu_plugin_insn_data(insn);
    size_t size = qemu_plugin_insn_size(insn);
    uint64_t at = qemu_plugin_insn_vaddr(insn);
    if (is_repeated_string(code, size))
        qemu_plugin_register_vcpu_insn_exec_cb(insn, on_string, CB_NO_REGS, (void *)(uintptr_t)at);
    if (is_vmrun(code, size)) {
        after_vmrun = at + size;
        qemu_plugin_register_vcpu_insn_exec_cb(insn, on_vmrun, CB_NO_REGS, NULL);
    }
}

// A guest's kernel lies 2 MiB into its memory, which begins at 1 GiB, and runs there until it has page tables.
#define START ((1ul << 30) + (2 << 20))
static bool is_guest(uint64_t address) {
    return address >= 0xffffffc0ul << 32 || (address >= START && address < 2ul << 30);
}

static void watch_aarch64(struct qemu_plugin_tb *tb, uint64_t address) {
    if (is_guest(address)) qemu_plugin_register_vcpu_tb_exec_cb(tb, on_guest, CB_NO_REGS, NULL);
    else if (address >> 63) qemu_plugin_register_vcpu_tb_exec_cb(tb, on_host, CB_NO_REGS, NULL);
    else if (address < 16 << 20) qemu_plugin_register_vcpu_tb_exec_cb(tb, on_user, CB_NO_REGS, NULL);
    if (address == START) qemu_plugin_register_vcpu_tb_exec_cb(tb, on_start, CB_NO_REGS, NULL);
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    uint64_t address = qemu_plugin_tb_vaddr(tb);
    size_t count = qemu_plugin_tb_n_insns(tb);
    if (aarch64) watch_aarch64(tb, address);
    else watch_x86_64(tb, address);
    if (profile) {
        struct block *block = calloc(1, sizeof *block);
        *block = (struct block){address, count, 0, blocks};
        blocks = block;
        qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, CB_NO_REGS, block);
    }
    for (size_t i = 0; i < mark_count; i++)
        if (marks[i] == address)
            qemu_plugin_register_vcpu_tb_exec_cb(tb, on_mark, CB_NO_REGS, (void *)(uintptr_t)address);
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        if (!aarch64 || is_guest(address)) qemu_plugin_register_vcpu_insn_exec_inline(insn, INLINE_ADD_U64, &executed, 1);
        if (!aarch64) watch_x86_64_instruction(insn);
    }
}

static void read_marks(const char *path) {
    FILE *file = fopen(path, "r");
    uint64_t address;
    while (file && fscanf(file, "%lx", &address) == 1) {
        marks = realloc(marks, (mark_count + 1) * sizeof *marks);
        marks[mark_count++] = address;
    }
    if (file) fclose(file);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info,
                                                               int argc, char **argv) {
    for (int i = 0; i < argc; i++) {
        if (!strcmp(argv[i], "arch=aarch64")) aarch64 = true;
        if (!strncmp(argv[i], "out=", 4)) out = fopen(argv[i] + 4, "a");
        if (!strncmp(argv[i], "profile=", 8)) profile = fopen(argv[i] + 8, "a");
        if (!strncmp(argv[i], "marks=", 6)) read_marks(argv[i] + 6);
    }
    if (!out || (mark_count && !profile)) {
        fprintf(stderr, "count: needs out=FILE, and profile=FILE for marks, which can be written\n");
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    return 0;
}
