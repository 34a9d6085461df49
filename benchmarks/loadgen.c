/* loadgen: many WebSocket clients in one process and one thread, to measure a broadcasting server over loopback.
 *
 *   loadgen [options] PORT PATH CLIENTS EXPECT...
 *
 * Opens CLIENTS sockets to ws://127.0.0.1:PORT/PATH, prints "READY {...}" when all are open, then reads until every reading
 * client has EXPECT events or is closed, or nothing has arrived for -i seconds since the first event, or none at all for -w.
 * Then it prints one JSON object. Each further EXPECT is another round with the same clients, counted from zero.
 *
 *   -j K   handshakes under way at once (default 1: one after the other)
 *   -g     a client is open when it has its greeting, {"type":"connected"...}, not already with the 101
 *   -z     offer permessage-deflate as a browser does; compressed events are counted, not inflated
 *   -r K   rooms: the number of the client's room, one for every K clients, is appended to PATH
 *   -e     use Socket.IO, not cartows: PATH is that of its WebSocket transport, an event is one of its events
 *   -n     several publishers: the position of an event is the number in its id, after the dot, one more with every event
 *   -s K   the first K clients never read, and are left out of every count and latency
 *   -i S   idle limit (default 5)
 *   -w S   limit for the first event of a round (default 60)
 *   -l S   limit for a round (default 300)
 *
 * An event is a text frame other than the greeting. From one event in eight two numbers are read: its latency, the receiver's
 * clock minus the number after "t": in the payload (seconds since the epoch), and its position: the k-th event of a client in a
 * round has to be "task-k", or something was lost, repeated or reordered before it; with -n its number has to be as much more
 * than that of the first. Pings are answered.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define GREETING "{\"type\":\"connected\""
#define JOINED "40{"
#define SAMPLE_EVERY 8
#define SAMPLES 4000000
#define READ_SIZE (256 * 1024)
/* As with a client across a real network; the 64 KiB segments of loopback give a sender megabytes of buffer. */
#define STALLED_SEGMENT 1460
#define STALLED_RECEIVE (32 * 1024)
#define SURPLUS_WAIT 0.1

enum state { CONNECTING, UPGRADING, GREETING_DUE, OPEN, CLOSED };

typedef struct {
    enum state state;
    int fd, stalled, code; /* code: the close code received, 0 for none */
    unsigned char *rest;   /* the beginning of an incomplete frame */
    size_t rest_length;
    long events, base; /* base: the number of its first event of this round, with -n */
} Client;

static struct {
    int port, clients, parallel, greeting, deflate, room, stalled, socketio, numbers;
    const char *path;
    long expect;
    double idle, wait, limit;
} options = {.parallel = 1, .idle = 5, .wait = 60, .limit = 300};

static Client *clients;
static int epoll, opened, open_count, done_count; /* done: has EXPECT events, or is closed with fewer */
static long total, compressed, misplaced, received, samples;
static double latency[SAMPLES], first_at, last_at;
static unsigned char scratch[32 * 1024 * 1024];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const Client *c, const char *what) {
    fprintf(stderr, "client %d: %s (%s)\n", (int)(c - clients), what, strerror(errno));
    exit(1);
}

static void sample(Client *c, const char *payload, size_t n, double at) {
    const char *stamp = memmem(payload, n, "\"t\":", 4), *place = memmem(payload, n, "\"task-", 6);
    if (stamp && samples < SAMPLES) latency[samples++] = at - strtod(stamp + 4, NULL);
    if (options.numbers) {
        const char *id = memmem(payload, n, "\"id\":\"", 6);
        for (const char *next = id; next; next = memmem(id + 6, payload + n - id - 6, "\"id\":\"", 6)) id = next;
        const char *dot = id ? memchr(id, '.', payload + n - id) : NULL; /* the last one belongs to the event */
        if (c->events == 0 && dot) c->base = atol(dot + 1);
        if (!dot || atol(dot + 1) != c->base + c->events) misplaced++;
    } else if (place && atol(place + 6) != c->events) {
        misplaced++;
    }
}

static void say(Client *c, const char *text) {
    unsigned char frame[131] = {0x81, 0x80 | strlen(text), 0, 0, 0, 0}; /* masked with zeroes */
    memcpy(frame + 6, text, strlen(text));
    if (write(c->fd, frame, 6 + strlen(text)) < 0) fail(c, "write");
}

/* Handles control messages of Socket.IO; returns whether this was one. */
static int on_packet(Client *c, const char *payload, size_t n) {
    if (n >= 2 && memcmp(payload, "42", 2) == 0) return 0;
    if (n >= 1 && *payload == '0') say(c, "40");
    if (n >= 1 && *payload == '2') say(c, "3");
    if (n >= strlen(JOINED) && memcmp(payload, JOINED, strlen(JOINED)) == 0 && c->state == GREETING_DUE)
        c->state = OPEN, open_count++;
    return 1;
}

static void on_text(Client *c, int is_compressed, const char *payload, size_t n, double at) {
    static long turn;
    if (options.socketio && on_packet(c, payload, n)) return;
    if (!is_compressed && n >= strlen(GREETING) && memcmp(payload, GREETING, strlen(GREETING)) == 0) {
        if (c->state == GREETING_DUE) c->state = OPEN, open_count++;
        return;
    }
    if (first_at == 0) first_at = at;
    last_at = at;
    total++;
    if (is_compressed) compressed++;
    else if (turn++ % SAMPLE_EVERY == 0 || (options.numbers && c->events == 0)) sample(c, payload, n, at);
    if (++c->events == options.expect) done_count++;
}

static void end(Client *c) {
    close(c->fd); /* which removes it from epoll, too */
    c->state = CLOSED;
    if (c->events < options.expect || options.expect <= 0) done_count++;
}

/* Reads the complete frames among the bytes, and returns their length; closes at a close frame. */
static size_t take_frames(Client *c, const unsigned char *bytes, size_t length, double at) {
    size_t taken = 0;
    while (length - taken >= 2) {
        const unsigned char *b = bytes + taken;
        int opcode = b[0] & 15;
        uint64_t n = b[1] & 127;
        size_t head = 2;
        if (n == 126) {
            if (length - taken < 4) break;
            n = b[2] << 8 | b[3], head = 4;
        } else if (n == 127) {
            if (length - taken < 10) break;
            n = 0, head = 10;
            for (int i = 0; i < 8; i++) n = n << 8 | b[2 + i];
        }
        if (length - taken < head + n) break;
        taken += head + n;
        if (opcode == 1) {
            on_text(c, b[0] & 0x40, (const char *)b + head, n, at);
        } else if (opcode == 9 && n <= 125) {
            unsigned char pong[131] = {0x8a, 0x80 | n, 0, 0, 0, 0}; /* masked with zeroes */
            memcpy(pong + 6, b + head, n);
            if (write(c->fd, pong, 6 + n) < 0) { end(c); break; }
        } else if (opcode == 8) {
            c->code = n >= 2 ? b[head] << 8 | b[head + 1] : 1005;
            end(c);
            break;
        }
    }
    return taken;
}

/* Reads the answer to the handshake, and returns its length, 0 while it is incomplete. */
static size_t take_answer(Client *c, const unsigned char *bytes, size_t length) {
    const char *text = (const char *)bytes, *end_of_head = memmem(text, length, "\r\n\r\n", 4);
    if (!end_of_head) return 0;
    if (length < 12 || memcmp(text + 8, " 101", 4) != 0) {
        fprintf(stderr, "client %d: no 101: %.*s\n", (int)(c - clients), (int)(length < 400 ? length : 400), text);
        exit(1);
    }
    c->state = options.greeting || options.socketio ? GREETING_DUE : OPEN;
    open_count += c->state == OPEN;
    return end_of_head + 4 - text;
}

static void on_readable(Client *c) {
    size_t length = c->rest_length, taken = 0;
    if (length) memcpy(scratch, c->rest, length);
    ssize_t r = read(c->fd, scratch + length, READ_SIZE);
    if (r < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (r <= 0 && c->state != OPEN) fail(c, "closed before it was open");
    if (r <= 0) { end(c); return; }
    double at = now();
    received += r, length += r;
    if (c->state == UPGRADING) taken = take_answer(c, scratch, length);
    if (c->state != UPGRADING) taken += take_frames(c, scratch + taken, length - taken, at);
    if (c->state == CLOSED) return;
    c->rest_length = length - taken;
    if (c->rest_length > sizeof scratch - READ_SIZE) fail(c, "a frame too large for this tool");
    free(c->rest);
    c->rest = c->rest_length ? memcpy(malloc(c->rest_length), scratch + taken, c->rest_length) : NULL;
    if (c->stalled && c->state == OPEN) epoll_ctl(epoll, EPOLL_CTL_DEL, c->fd, NULL);
}

static void start(Client *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(options.port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1, segment = STALLED_SEGMENT, receive = STALLED_RECEIVE;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) fail(c, "socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (c->stalled) {
        setsockopt(c->fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &receive, sizeof receive);
    }
    if (connect(c->fd, (void *)&to, sizeof to) && errno != EINPROGRESS) fail(c, "connect");
    struct epoll_event e = {.events = EPOLLOUT, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &e);
}

static void on_connected(Client *c) {
    char request[1024], room[16] = "";
    socklen_t size = sizeof errno;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &errno, &size);
    if (errno) fail(c, "connect");
    if (options.room > 0) snprintf(room, sizeof room, "%d", (int)(c - clients) / options.room);
    int n = snprintf(request, sizeof request,
                     "GET %s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                     options.path, room, options.port,
                     options.deflate ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" : "");
    if (write(c->fd, request, n) != n) fail(c, "write");
    c->state = UPGRADING;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &e);
}

static int serve(int timeout_ms) {
    struct epoll_event events[512];
    int k = epoll_wait(epoll, events, 512, timeout_ms);
    for (int i = 0; i < k; i++) {
        Client *c = events[i].data.ptr;
        if (c->state == CONNECTING) on_connected(c);
        else if (c->state != CLOSED) on_readable(c);
    }
    return k;
}

static void open_all(void) {
    double began = now();
    while (open_count < options.clients) {
        while (opened < options.clients && opened - open_count < options.parallel) {
            clients[opened].stalled = opened < options.stalled;
            start(&clients[opened++]);
        }
        serve(100);
        if (now() - began > options.limit) fail(&clients[opened - 1], "not all clients could connect within the limit");
    }
    printf("READY {\"connect_s\": %.3f}\n", now() - began);
    fflush(stdout);
}

/* Resets the counts; a client that was closed in an earlier round receives nothing more. */
static void begin_round(long expect) {
    options.expect = expect;
    total = compressed = misplaced = received = samples = 0;
    first_at = last_at = 0, done_count = 0;
    for (Client *c = clients + options.stalled; c < clients + options.clients; c++) {
        c->events = 0;
        done_count += c->state == CLOSED;
    }
}

static void read_all(void) {
    double ready = now(), last_read = ready, all_done = 0;
    int reading = options.clients - options.stalled;
    for (;;) {
        int k = serve(done_count == reading ? 10 : 100);
        double t = now();
        if (k > 0) last_read = t;
        if (done_count == reading && all_done == 0) all_done = t;
        if (all_done && t - all_done > SURPLUS_WAIT) break; /* an event that arrives in this time is one too many */
        if (total > 0 && t - last_read > options.idle) break;
        if (total == 0 && t - ready > options.wait) break;
        if (t - ready > options.limit) break;
    }
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(double q) { return samples ? latency[(long)((samples - 1) * q)] * 1e3 : 0; }

static void report(void) {
    long lost = 0, surplus = 0;
    int closed = 0, codes[5000] = {0};
    for (Client *c = clients + options.stalled; c < clients + options.clients; c++) {
        if (c->events < options.expect) lost += options.expect - c->events;
        if (c->events > options.expect) surplus += c->events - options.expect;
        if (c->state != CLOSED || (options.expect > 0 && c->events >= options.expect)) continue;
        closed++; /* before it had all of its events */
        codes[c->code < 5000 ? c->code : 0]++;
    }
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    qsort(latency, samples, sizeof *latency, ascending);
    printf("{\"clients\": %d, \"total\": %ld, \"lost\": %ld, \"surplus\": %ld, \"misplaced\": %ld, \"compressed\": %ld, ",
           options.clients - options.stalled, total, lost, surplus, misplaced, compressed);
    printf("\"closed\": %d, ", closed);
    printf("\"close_codes\": {");
    for (int i = 0, comma = 0; i < 5000; i++)
        if (codes[i]) printf("%s\"%d\": %d", comma++ ? ", " : "", i, codes[i]);
    printf("}, \"bytes\": %ld, \"span_s\": %.4f, \"rate\": %.0f, \"cpu_s\": %.3f, ", received, last_at - first_at,
           total / (last_at - first_at + 1e-9),
           use.ru_utime.tv_sec + use.ru_stime.tv_sec + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6);
    printf("\"latency_ms\": {\"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"max\": %.3f, \"n\": %ld}}\n", percentile(0.5),
           percentile(0.9), percentile(0.99), percentile(1), samples);
    fflush(stdout);
}

int main(int argc, char **argv) {
    for (int o; (o = getopt(argc, argv, "j:gzr:ens:i:w:l:")) != -1;) {
        switch (o) {
        case 'j': options.parallel = atoi(optarg); break;
        case 'g': options.greeting = 1; break;
        case 'z': options.deflate = 1; break;
        case 'r': options.room = atoi(optarg); break;
        case 'e': options.socketio = 1; break;
        case 'n': options.numbers = 1; break;
        case 's': options.stalled = atoi(optarg); break;
        case 'i': options.idle = atof(optarg); break;
        case 'w': options.wait = atof(optarg); break;
        case 'l': options.limit = atof(optarg); break;
        default: return 2;
        }
    }
    if (argc - optind < 4) {
        fprintf(stderr, "usage: %s [-j K] [-g] [-z] [-r K] [-e] [-n] [-s K] [-i S] [-w S] [-l S] PORT PATH CLIENTS EXPECT...\n", argv[0]);
        return 2;
    }
    options.port = atoi(argv[optind]), options.path = argv[optind + 1];
    options.clients = atoi(argv[optind + 2]);
    clients = calloc(options.clients, sizeof *clients);
    epoll = epoll_create1(0);
    options.expect = atol(argv[optind + 3]);
    open_all();
    for (int round = optind + 3; round < argc; round++) {
        if (round > optind + 3) begin_round(atol(argv[round]));
        read_all();
        report();
    }
    return 0;
}
