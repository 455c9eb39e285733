// init of the default guest: the first process, static and without a C library, so that a boot reads
// and runs as little as possible (a few pages instead of a C library's hundreds).
//
// 1. Signals the boot timer.
// 2. Mounts the usual file systems.
// 3. Does what the kernel command line says:
//      mote.run="COMMAND"  runs it with /bin/sh -c, prints nothing of its own, and ends the machine
//      mote.demo           greets and ends the machine
//      neither             greets and gives a shell on the console; ends the machine when that exits
// 4. Reaps orphans, and obeys busybox's poweroff, halt and reboot, which signal process 1.

#include <asm/ioctls.h>
#include <asm/unistd.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/mount.h>
#include <linux/reboot.h>
#include <linux/signal.h>
#include <linux/sockios.h>
#include <linux/utsname.h>
#include <linux/wait.h>
#include <stddef.h>

// From headers that can't be had together with the kernel's own.
#define AF_INET 2
#define SOCK_DGRAM 2
#define IFF_UP 1
struct interface_request { // struct ifreq
    char name[16];
    short flags;
    char rest[22];
};

// --- system calls ---

static long call(long n, long a, long b, long c, long d, long e, long f) {
#if defined(__x86_64__)
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c,
                  x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
#else
#error "no system calls for this architecture"
#endif
}
#define SELECT(_0, _1, _2, _3, _4, _5, _6, name, ...) name
#define CALL0(n) call(n, 0, 0, 0, 0, 0, 0)
#define CALL1(n, a) call(n, (long)(a), 0, 0, 0, 0, 0)
#define CALL2(n, a, b) call(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define CALL3(n, a, b, c) call(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define CALL4(n, a, b, c, d) call(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define CALL5(n, a, b, c, d, e) call(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define CALL6(n, a, b, c, d, e, f) call(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define sys(...) SELECT(__VA_ARGS__, CALL6, CALL5, CALL4, CALL3, CALL2, CALL1, CALL0)(__VA_ARGS__)

static int open_file(const char *path, int flags) { return sys(__NR_openat, AT_FDCWD, path, flags, 0); }

// The compiler may call these for any copy or clearing of its own.
void *memcpy(void *to, const void *from, size_t n) {
    for (size_t i = 0; i < n; i++) ((volatile char *)to)[i] = ((const char *)from)[i];
    return to;
}
void *memset(void *to, int byte, size_t n) {
    for (size_t i = 0; i < n; i++) ((volatile char *)to)[i] = byte;
    return to;
}

// --- text ---

static size_t length(const char *s) {
    size_t n = 0;
    while (s[n]) n++;
    return n;
}
static int starts_with(const char *s, const char *prefix) {
    while (*prefix)
        if (*s++ != *prefix++) return 0;
    return 1;
}

// One buffer for what is printed, so that a line is one write.
static char out[1024];
static size_t out_length;
static void flush(void) {
    sys(__NR_write, 1, out, out_length);
    out_length = 0;
}
static void put(const char *s) {
    while (*s && out_length < sizeof out) out[out_length++] = *s++;
}
static void put_number(unsigned long n) {
    char digits[24];
    int i = sizeof digits - 1;
    digits[i] = 0;
    do digits[--i] = '0' + n % 10;
    while (n /= 10);
    put(digits + i);
}

// Reads a small file, to its first line's end if `one_line`.
static char *read_file(const char *path, char *buffer, size_t size, int one_line) {
    long n = -1;
    int fd = open_file(path, O_RDONLY);
    if (fd >= 0) {
        n = sys(__NR_read, fd, buffer, size - 1);
        sys(__NR_close, fd);
    }
    buffer[n > 0 ? n : 0] = 0;
    for (char *c = buffer; one_line && *c; c++)
        if (*c == '\n') *c = 0;
    return buffer;
}

// --- the boot timer ---

// A device register of the monitor's: whoever writes this byte there tells that init has been reached.
#if defined(__x86_64__)
#define BOOT_TIMER 0xd0000000 // other monitors' guest images use the same address and value
#else
#define BOOT_TIMER 0x09020000 // where those write, 0x40000000, a guest of mote's has memory
#endif
static void signal_boot_timer(void) {
    int fd = open_file("/dev/mem", O_RDWR | O_SYNC);
    if (fd < 0) { // the kernel mounts /dev itself over a root disk, but not in an initramfs
        sys(__NR_mount, "dev", "/dev", "devtmpfs", MS_NOSUID, "mode=755");
        fd = open_file("/dev/mem", O_RDWR | O_SYNC);
    }
    if (fd < 0) return;
    long page = sys(__NR_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, BOOT_TIMER);
    if (page > 0 || page < -4095) {
        *(volatile unsigned char *)page = 123;
        sys(__NR_munmap, page, 4096);
    }
    sys(__NR_close, fd);
}

// --- set-up ---

static void mount_all(void) {
    static const struct {
        const char *type, *path, *data;
        unsigned long flags;
    } mounts[] = {
        {"proc", "/proc", 0, MS_NOSUID | MS_NODEV | MS_NOEXEC},
        {"sysfs", "/sys", 0, MS_NOSUID | MS_NODEV | MS_NOEXEC},
        {"devtmpfs", "/dev", "mode=755", MS_NOSUID}, // "busy" where it is there already
        {"devpts", "/dev/pts", "mode=620,ptmxmode=666", MS_NOSUID | MS_NOEXEC},
        {"tmpfs", "/dev/shm", "mode=1777", MS_NOSUID | MS_NODEV},
        {"tmpfs", "/run", "mode=755", MS_NOSUID | MS_NODEV},
        {"tmpfs", "/tmp", "mode=1777", MS_NOSUID | MS_NODEV},
    };
    for (size_t i = 0; i < sizeof mounts / sizeof *mounts; i++) {
        if (starts_with(mounts[i].path, "/dev/")) sys(__NR_mkdirat, AT_FDCWD, mounts[i].path, 0755);
        sys(__NR_mount, mounts[i].type, mounts[i].path, mounts[i].type, mounts[i].flags, mounts[i].data);
    }
    static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
                                           {"/proc/self/fd/0", "/dev/stdin"},
                                           {"/proc/self/fd/1", "/dev/stdout"},
                                           {"/proc/self/fd/2", "/dev/stderr"}};
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        sys(__NR_symlinkat, links[i][0], AT_FDCWD, links[i][1]);
}

static void bring_up_loopback(void) {
    struct interface_request request = {.name = "lo"};
    int fd = sys(__NR_socket, AF_INET, SOCK_DGRAM, 0);
    if (fd < 0) return;
    sys(__NR_ioctl, fd, SIOCGIFFLAGS, &request);
    request.flags |= IFF_UP;
    sys(__NR_ioctl, fd, SIOCSIFFLAGS, &request);
    sys(__NR_close, fd);
}

// --- the kernel command line ---

static char command_line[4096];
static char *run_command; // mote.run=
static char *root = "initramfs";
static int demo; // mote.demo

// Splits it as the kernel does: at spaces outside double quotes. Both mote.run="a b" and "mote.run=a b"
// are common; quotes aren't part of the value.
static void parse_command_line(void) {
    char *c = read_file("/proc/cmdline", command_line, sizeof command_line, 1);
    while (*c) {
        while (*c == ' ') c++;
        char *word = c, *to = c;
        for (int quoted = 0; *c && (quoted || *c != ' '); c++) {
            if (*c == '"') quoted = !quoted;
            else *to++ = *c;
        }
        if (*c) c++;
        *to = 0;
        if (starts_with(word, "mote.run=")) run_command = word + length("mote.run=");
        else if (starts_with(word, "mote.demo")) demo = 1;
        else if (starts_with(word, "root=")) root = word + length("root=");
    }
}

// --- greeting ---

// How many numbers a list like "0-2,5" names.
static unsigned count_list(const char *list) {
    unsigned count = 0, first = 0, number = 0, range = 0;
    for (const char *c = list;; c++) {
        if (*c >= '0' && *c <= '9') {
            number = number * 10 + (unsigned)(*c - '0');
        } else if (*c == '-') {
            first = number, number = 0, range = 1;
        } else {
            count += range ? number - first + 1 : c != list;
            number = 0, range = 0;
            if (*c != ',') return count;
        }
    }
}

static void greet(void) {
    struct new_utsname name;
    static char text[256];
    sys(__NR_uname, &name);
    put("\nLinux ");
    put(name.release);
    put(" in a mote microVM: ");
    unsigned cpus = count_list(read_file("/sys/devices/system/cpu/online", text, sizeof text, 1));
    put_number(cpus);
    put(cpus == 1 ? " CPU" : " CPUs");
    read_file("/proc/meminfo", text, sizeof text, 1); // MemTotal:   120000 kB
    unsigned long kib = 0;
    for (char *c = text; *c; c++)
        if (*c >= '0' && *c <= '9') kib = kib * 10 + (*c - '0');
    put(", ");
    put_number(kib / 1024);
    put(" MiB of memory, root on ");
    put(root);
    put("\n");
    if (!demo) put("To leave: exit or poweroff; or Ctrl-A x, at any time.\n\n");
    flush();
}

// --- processes ---

// The console's own device: /dev/console can't be a controlling terminal, and without one there is no
// job control and no Ctrl-C.
static int open_console(void) {
    static char path[64] = "/dev/";
    char *name = read_file("/sys/class/tty/console/active", path + 5, sizeof path - 5, 1);
    for (char *c = name; *c; c++) // the last of several is the one that /dev/console stands for
        if (*c == ' ') name = c + 1;
    for (char *to = path + 5; (*to = *name); to++) name++;
    int fd = open_file(path, O_RDWR);
    return fd >= 0 ? fd : open_file("/dev/console", O_RDWR);
}

static char *environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                              "HOME=/root", "TERM=vt100", "USER=root", "SHELL=/bin/sh",
                              "ENV=/etc/shrc", NULL};

static int fork_process(void) { return sys(__NR_clone, SIGCHLD, 0, 0, 0, 0); }

static void drain_console(void) { sys(__NR_ioctl, 1, TCSBRK, 1); }

// Starts /bin/sh in a session of its own on the console, and returns the process whose end and status
// are the shell's. That isn't the shell: at the end of a session's first process the kernel drops what
// the terminal hasn't sent yet, so that one has to wait until it has.
static int start_shell(char *const arguments[]) {
    int leader = fork_process();
    if (leader) return leader;
    sys(__NR_setsid);
    int console = open_console();
    if (console >= 0) {
        sys(__NR_ioctl, console, TIOCSCTTY, 0);
        for (int fd = 0; fd < 3; fd++) sys(__NR_dup3, console, fd, 0);
        if (console > 2) sys(__NR_close, console);
    }
    int shell = fork_process();
    if (shell == 0) {
        unsigned long none = 0;
        sys(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
        sys(__NR_chdir, "/root");
        sys(__NR_execve, "/bin/sh", arguments, environment);
        put("init: /bin/sh can't be run\n");
        flush();
        sys(__NR_exit, 127);
    }
    int status = 0;
    sys(__NR_wait4, shell, &status, 0, 0);
    drain_console();
    sys(__NR_exit, status & 0x7f ? 128 + (status & 0x7f) : status >> 8 & 0xff);
    return -1;
}

// Ends the machine: everything written, every disk clean. On x86_64 without ACPI there is no power to
// switch off; a restart (with reboot=t: a triple fault; on AArch64 a call of PSCI's) is what tells the monitor.
static void end(void) {
    drain_console();
    sys(__NR_kill, -1, SIGTERM);
    sys(__NR_sync);
    sys(__NR_kill, -1, SIGKILL);
    while (sys(__NR_wait4, -1, 0, 0, 0) > 0) {} // until nothing has a file open any more
    // Other mounts, the newest first; then the root.
    static char mounts[4096];
    static char *paths[128];
    size_t count = 0;
    read_file("/proc/mounts", mounts, sizeof mounts, 0);
    for (char *c = mounts; *c; c++) { // device PATH type options 0 0
        while (*c && *c != ' ') c++;
        if (*c && count < 128) paths[count++] = ++c;
        while (*c && *c != ' ') c++;
        if (*c) *c++ = 0;
        while (*c && *c != '\n') c++;
        if (!*c) break;
    }
    while (count--)
        if (length(paths[count]) > 1) sys(__NR_umount2, paths[count], 0);
    sys(__NR_mount, 0, "/", 0, MS_REMOUNT | MS_RDONLY, 0);
    sys(__NR_sync);
    drain_console();
    sys(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_RESTART, 0);
}

__attribute__((used)) static void main_program(void) {
    signal_boot_timer();

    // Signals wait until they are asked for, below. The child that ends is one of them.
    unsigned long all = ~0ul;
    sys(__NR_rt_sigprocmask, SIG_SETMASK, &all, 0, sizeof all);
    mount_all();
    sys(__NR_sethostname, "mote", 4);
    bring_up_loopback();
    parse_command_line();

    int pid;
    if (run_command) {
        pid = start_shell((char *[]){"sh", "-c", run_command, NULL});
    } else {
        greet();
        if (demo) end();
        pid = start_shell((char *[]){"-sh", NULL});
    }
    for (;;) {
        unsigned long wanted = 1ul << (SIGCHLD - 1) | 1ul << (SIGTERM - 1) | 1ul << (SIGUSR1 - 1) |
                               1ul << (SIGUSR2 - 1) | 1ul << (SIGINT - 1);
        long signal = sys(__NR_rt_sigtimedwait, &wanted, 0, 0, sizeof wanted);
        if (signal > 0 && signal != SIGCHLD) end();
        int child, status;
        while ((child = sys(__NR_wait4, -1, &status, WNOHANG, 0)) > 0) {
            if (child != pid) continue;
            if (run_command && status) {
                put("init: the command's status is ");
                put_number(status >> 8 & 0xff);
                put("\n");
                flush();
            }
            end();
        }
    }
}

// The kernel starts a program with the stack aligned to 16 bytes; a function expects it after a call.
#if defined(__x86_64__)
__asm__(".globl _start\n_start: xor %ebp, %ebp\n call main_program\n hlt\n");
#else
__asm__(".globl _start\n_start: mov x29, xzr\n bl main_program\n b .\n");
#endif
