// Run in the guest by dax.rs: what a shell has no words for.
//   in FILE DEVICE    reads a MiB from the device straight into FILE, which it maps (O_DIRECT)
//   out FILE DEVICE   writes a MiB from the mapping straight to the device
//   float ADDRESS     stores to physical memory that can't be written, in two ways; each may be
//                     ignored or end this process's child, and nothing more
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZE = 1 << 20 };

static void store(off_t address) {
    int memory = open("/dev/mem", O_RDWR);
    void *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, address);
    volatile int *number = map;
    int before = *number;
    *number = ~before;
    printf("%s\n", *number == before ? "ignored" : "written");
    fflush(stdout);
    *(volatile double *)map = 1.5; // by an instruction of SSE
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc == 3) {
        int status = 0;
        pid_t child = fork();
        if (child == 0) store(strtoll(argv[2], NULL, 0));
        waitpid(child, &status, 0);
        printf("signal %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
        return 0;
    }
    int in = argv[1][0] == 'i';
    int file = open(argv[2], in ? O_RDWR : O_RDONLY);
    int device = open(argv[3], O_DIRECT | (in ? O_RDONLY : O_WRONLY));
    int protection = in ? PROT_READ | PROT_WRITE : PROT_READ;
    void *map = mmap(NULL, SIZE, protection, MAP_SHARED, file, 0);
    ssize_t done = in ? read(device, map, SIZE) : write(device, map, SIZE);
    printf("%zd\n", done);
    return done != SIZE;
}
