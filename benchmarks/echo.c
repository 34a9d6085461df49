/* echo: a stand-in for a database on the same machine: sends back what it receives, on each of its few connections.
 *
 *   echo PORT
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS 64

int main(int argc, char **argv) {
    if (argc < 2) { fprintf(stderr, "usage: %s PORT\n", argv[0]); return 2; }
    alarm(1800); /* ends by itself if its parent has died */
    int on = 1, used = 1;
    struct pollfd fds[CONNECTIONS] = {{.fd = socket(AF_INET, SOCK_STREAM, 0), .events = POLLIN}};
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fds[0].fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fds[0].fd, (void *)&at, sizeof at) || listen(fds[0].fd, CONNECTIONS)) { perror("listen"); return 1; }
    for (;;) {
        if (poll(fds, used, -1) < 0) { perror("poll"); return 1; }
        for (int i = used - 1; i > 0; i--) {
            char query[4096];
            ssize_t n = fds[i].revents ? read(fds[i].fd, query, sizeof query) : 0;
            if (fds[i].revents && (n <= 0 || write(fds[i].fd, query, n) != n)) {
                close(fds[i].fd);
                fds[i] = fds[--used];
            }
        }
        if (!fds[0].revents) continue;
        int fd = accept(fds[0].fd, NULL, NULL);
        if (fd < 0) continue;
        if (used == CONNECTIONS) { close(fd); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        fds[used++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
}
