/* probe: how long an HTTP server takes to answer, as seen by a client.
 *
 *   probe PORT PATH COUNT TIMEOUT_S SECONDS GAP_MS
 *
 * Sends COUNT requests one after another, each on a connection of its own, for no longer than SECONDS, and prints one JSON
 * object. They are GET, or where PATH is "POST /path" POST without a body. Between two it waits a random time, GAP_MS on
 * average: without that, a server that is busy in bursts would be probed mostly while it is idle, where one request
 * follows another at once. An answer other than 200 counts as failed; the first one that does not arrive within TIMEOUT_S ends the
 * run, with "hung": true.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* 1 for a 200, 0 for anything else, -1 if nothing came in time. */
static int ask(int port, const char *path, double timeout) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct timeval wait = {.tv_sec = (long)timeout, .tv_usec = (timeout - (long)timeout) * 1e6};
    int fd = socket(AF_INET, SOCK_STREAM, 0), status = 0;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    char request[1024], answer[8192];
    int post = strncmp(path, "POST ", 5) == 0;
    int n = snprintf(request, sizeof request, "%s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n%s\r\n",
                     post ? "" : "GET ", path, port, post ? "Content-Length: 0\r\n" : "");
    if (connect(fd, (void *)&to, sizeof to) == 0 && write(fd, request, n) == n) {
        size_t length = 0;
        for (ssize_t r; (r = read(fd, answer + length, sizeof answer - length)) != 0; length += r) {
            if (r < 0) { length = 0; break; }
        }
        status = length >= 12 && memcmp(answer + 8, " 200", 4) == 0;
    }
    if (status == 0 && (errno == EAGAIN || errno == EINPROGRESS)) status = -1;
    close(fd);
    errno = 0;
    return status;
}

int main(int argc, char **argv) {
    if (argc != 7) { fprintf(stderr, "usage: %s PORT PATH COUNT TIMEOUT_S SECONDS GAP_MS\n", argv[0]); return 2; }
    int count = atoi(argv[3]), answered = 0, failed = 0, hung = 0;
    double *took = calloc(count, sizeof *took), end = now() + atof(argv[5]), gap = atof(argv[6]);
    while (answered + failed < count && !hung && now() < end) {
        if (gap > 0) usleep(gap * 2e3 * drand48());
        double began = now();
        int status = ask(atoi(argv[1]), argv[2], atof(argv[4]));
        if (status > 0) took[answered++] = now() - began;
        hung = status < 0, failed += status == 0;
    }
    qsort(took, answered, sizeof *took, ascending);
#define AT(q) (answered ? took[(int)((answered - 1) * (q))] * 1e3 : 0)
    printf("{\"answered\": %d, \"failed\": %d, \"hung\": %s, ", answered, failed, hung ? "true" : "false");
    printf("\"latency_ms\": {\"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"max\": %.3f}}\n", AT(0.5), AT(0.9), AT(0.99), AT(1));
    return 0;
}
