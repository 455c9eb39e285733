// vsock echo PORT       in the guest: gives back whatever each connection sends, until it ends
// vsock many PORT N     in the guest: N connections to the host at once; a line through each, and back
#include <arpa/inet.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 4096
static struct pollfd polled[MOST + 1];
static char buffer[1 << 16];

static int die(const char *what) {
    perror(what);
    exit(1);
}

static void write_all(int fd, const char *from, size_t len) {
    while (len > 0) {
        ssize_t done = write(fd, from, len);
        if (done < 0) die("write");
        from += done;
        len -= done;
    }
}

static int vsock(void) {
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0) die("socket");
    return fd;
}

static void echo(unsigned port) {
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
    int listener = vsock(), count = 1;
    if (bind(listener, (struct sockaddr *)&address, sizeof address)) die("bind");
    if (listen(listener, 1024)) die("listen");
    polled[0] = (struct pollfd){.fd = listener, .events = POLLIN};
    for (;;) {
        if (poll(polled, count, -1) < 0) die("poll");
        for (int i = count - 1; i > 0; i--) {
            if (!polled[i].revents) continue;
            ssize_t len = read(polled[i].fd, buffer, sizeof buffer);
            if (len > 0) {
                write_all(polled[i].fd, buffer, len);
            } else {
                close(polled[i].fd);
                polled[i] = polled[--count];
            }
        }
        if (polled[0].revents && count <= MOST) {
            int fd = accept(listener, NULL, NULL);
            if (fd < 0) die("accept");
            polled[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
        }
    }
}

static void many(unsigned port, int count) {
    static int fds[MOST];
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
    for (int i = 0; i < count; i++) {
        fds[i] = vsock();
        if (connect(fds[i], (struct sockaddr *)&address, sizeof address)) die("connect");
    }
    for (int i = 0; i < count; i++) {
        int len = sprintf(buffer, "line %d\n", i);
        write_all(fds[i], buffer, len);
    }
    for (int i = 0; i < count; i++) {
        char expected[32];
        int len = sprintf(expected, "line %d\n", i), done = 0;
        while (done < len) {
            int part = read(fds[i], buffer + done, len - done);
            if (part <= 0) die("read");
            done += part;
        }
        if (memcmp(buffer, expected, len)) die("another's line");
    }
    printf("%d connections\n", count);
}

int main(int argc, char **argv) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (argc == 3 && !strcmp(argv[1], "echo")) echo(atoi(argv[2]));
    if (argc == 4 && !strcmp(argv[1], "many") && atoi(argv[3]) <= MOST) return many(atoi(argv[2]), atoi(argv[3])), 0;
    return 2;
}
