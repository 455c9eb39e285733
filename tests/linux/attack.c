// Run in the guest by attack.rs, as root: stores to and loads from whatever is at a physical address or a port.
//   attack registers COUNT ADDRESS PAGES...   so many accesses, of any width, anywhere in these pages
//   attack ports COUNT FROM TO...             the same for ports (x86_64)
// What the processor answers with a signal is passed over. What was read is said at the end.
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <sys/io.h>
#endif

enum { RANGES = 16, PAGE = 4096 };
static struct range {
    uint64_t first, count;
    volatile char *at;
} ranges[RANGES];
static int range_count;
static sigjmp_buf next;
static uint64_t seed = 1, sum;

static uint64_t any(void) { // splitmix64
    uint64_t z = seed += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

// Numbers that mean something, more often than not.
static uint64_t value(void) {
    switch (any() % 4) {
    case 0: return any();
    case 1: return any() % 16;
    case 2: return 1ull << any() % 64;
    default: return ~0ull << any() % 64;
    }
}

static void passed_over(int signal) {
    (void)signal;
    siglongjmp(next, 1);
}

static void one_register(void) {
    struct range *range = &ranges[any() % range_count];
    uint64_t width = 1 << any() % 4;
    // Mostly where the registers are, in the first part of a page.
    uint64_t within = any() % (any() % 4 ? 0x140 : PAGE - 8);
    volatile char *at = range->at + any() % range->count * PAGE + within / width * width;
    volatile uint64_t number = value();
    if (sigsetjmp(next, 1)) return;
    int reads = any() % 3 == 0;
    switch (width) {
    case 1: if (reads) sum += *(volatile uint8_t *)at; else *(volatile uint8_t *)at = number; break;
    case 2: if (reads) sum += *(volatile uint16_t *)at; else *(volatile uint16_t *)at = number; break;
    case 4: if (reads) sum += *(volatile uint32_t *)at; else *(volatile uint32_t *)at = number; break;
    default: if (reads) sum += *(volatile uint64_t *)at; else *(volatile uint64_t *)at = number;
    }
}

#if defined(__x86_64__)
static void one_port(void) {
    struct range *range = &ranges[any() % range_count];
    uint64_t port = range->first + any() % range->count;
    uint64_t number = value();
    if (sigsetjmp(next, 1)) return;
    switch (any() % 6) {
    case 0: sum += inb(port); break;
    case 1: sum += inw(port); break;
    case 2: sum += inl(port); break;
    case 3: outb(number, port); break;
    case 4: outw(number, port); break;
    default: outl(number, port);
    }
}
#endif

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    int ports = !strcmp(argv[1], "ports"), memory = open("/dev/mem", O_RDWR | O_SYNC);
    for (int i = 3; i + 1 < argc && range_count < RANGES; i += 2) {
        struct range *range = &ranges[range_count++];
        range->first = strtoull(argv[i], NULL, 0);
        range->count = strtoull(argv[i + 1], NULL, 0);
        if (ports) {
            range->count -= range->first;
            continue;
        }
        int how = PROT_READ | PROT_WRITE;
        range->at = mmap(NULL, range->count * PAGE, how, MAP_SHARED, memory, range->first);
        if (range->at == MAP_FAILED) {
            perror("/dev/mem");
            return 1;
        }
    }
#if defined(__x86_64__)
    if (ports && iopl(3)) {
        perror("iopl");
        return 1;
    }
#endif
    signal(SIGBUS, passed_over);
    signal(SIGSEGV, passed_over);
    signal(SIGILL, passed_over);
    for (long count = atol(argv[2]); count > 0; count--) {
        if (!ports) {
            one_register();
            continue;
        }
#if defined(__x86_64__)
        one_port();
#endif
    }
    printf("attacked\n");
    return sum == 1;
}
