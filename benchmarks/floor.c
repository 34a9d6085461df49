/* floor: the minimum work of a broadcasting server on this kernel, as the limit to compare with.
 *
 *   floor PORT
 *
 * One thread, no protocol work: accepts loadgen's sockets (its handshake key never changes), and on GET /blast?n=N&hz=H sends
 * N events to all of them, one blocking send() per client and batch. A batch is what is due, but at most 256 events; with
 * hz=0 everything is due. An event has the bytes that cartows would send, and the time at which it was due. The clients are
 * closed after the blast: a floor serves one.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CLIENTS 20000
#define BATCH 256
#define FRAME 404

static int clients[CLIENTS], count;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int event_frame(char *out, int i, double due) {
    int n = snprintf(out + 4, FRAME - 4,
                     "{\"type\":\"task.created\",\"timestamp\":\"2026-11-23T01:23:45.123456Z\",\"id\":\"9f2c61d0.%d\","
                     "\"data\":{\"task_id\":\"task-%d\",\"board_id\":\"board-456\",\"action\":\"created\","
                     "\"task\":{\"id\":\"task-%d\",\"title\":\"Implement WebSocket\",\"status\":\"done\",\"t\":%.6f}}}",
                     i + 1, i, i, due);
    out[0] = (char)0x81, out[1] = 126, out[2] = n >> 8, out[3] = n & 255;
    return 4 + n;
}

static void blast(int n, double hz) {
    static char out[BATCH * FRAME];
    double began = now();
    for (int i = 0; i < n;) {
        int size = 0;
        double at = now(), due = at;
        for (int k = 0; k < BATCH && i < n && due <= at; k++) {
            size += event_frame(out + size, i++, due);
            due = hz > 0 ? began + i / hz : at;
        }
        for (int c = 0; c < count; c++) send(clients[c], out, size, MSG_NOSIGNAL);
        double rest = due - now();
        if (rest > 0) usleep(rest * 1e6);
    }
}

static void answer_blast(int fd, const char *request) {
    const char *n = strstr(request, "n="), *hz = strstr(request, "hz=");
    char body[100], reply[300];
    double began = now();
    blast(n ? atoi(n + 2) : 0, hz ? atof(hz + 3) : 0);
    int length = snprintf(body, sizeof body, "{\"seconds\": %.4f, \"rejected\": 0}", now() - began);
    int size = snprintf(reply, sizeof reply, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
                        length, body);
    if (write(fd, reply, size) < 0) perror("reply");
    close(fd);
    while (count) close(clients[--count]);
}

int main(int argc, char **argv) {
    if (argc < 2) { fprintf(stderr, "usage: %s PORT\n", argv[0]); return 2; }
    alarm(1800); /* ends by itself if its parent has died */
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, 4096)) { perror("listen"); return 1; }
    for (;;) {
        static const char hello[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        char request[2048] = {0};
        int fd = accept(listener, NULL, NULL);
        if (fd < 0 || read(fd, request, sizeof request - 1) <= 0 || count == CLIENTS) { close(fd); continue; }
        if (strstr(request, "/blast")) { answer_blast(fd, request); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (write(fd, hello, sizeof hello - 1) < 0) perror("hello");
        clients[count++] = fd;
    }
}
