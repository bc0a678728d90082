/* http_socket: system calls on TCP sockets for http.c. No state; loop thread. (Apart from http.c
 * because the kernel's struct tcp_info, which counts bytes, cannot be included beside uv.h.) */
#include "server/http_socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/log.h"

enum { BACKLOG = 1024, SPARE_FILES = 64 /* descriptors that are not connections */ };

enum { NAME_BYTES = 64 };

/* The address of a host, and its name without brackets. Bytes of the address; 0: none is meant. */
static socklen_t http_socket_parse(const char *host, int port, struct sockaddr_storage *address,
                                   char name[NAME_BYTES])
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
    size_t n = strlen(host);
    bool bracketed = n > 2 && host[0] == '[' && host[n - 1] == ']';
    snprintf(name, NAME_BYTES, "%.*s", bracketed ? (int)n - 2 : (int)n, host + bracketed);
    if (strcmp(name, "localhost") == 0)
        snprintf(name, NAME_BYTES, "127.0.0.1");
    *address = (struct sockaddr_storage){0};
    if (!bracketed && inet_pton(AF_INET, name, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        return sizeof *v4;
    }
    if (inet_pton(AF_INET6, name, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        return sizeof *v6;
    }
    return 0;
}

bool http_socket_loopback(const char *host)
{
    struct sockaddr_storage address;
    const struct in6_addr *v6 = &((struct sockaddr_in6 *)&address)->sin6_addr;
    char name[NAME_BYTES];
    socklen_t size = http_socket_parse(host, 0, &address, name);
    if (size == sizeof(struct sockaddr_in))
        return ntohl(((struct sockaddr_in *)&address)->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    return size != 0 && (IN6_IS_ADDR_LOOPBACK(v6) ||
                         (IN6_IS_ADDR_V4MAPPED(v6) && v6->s6_addr[12] == IN_LOOPBACKNET));
}

int http_socket_listen(const char *host, int port, int *fd, int *port_out, char *url,
                       size_t url_bytes, struct err *err)
{
    struct sockaddr_storage address;
    int on = 1, off = 0;
    char name[NAME_BYTES];
    socklen_t size = http_socket_parse(host, port, &address, name);
    if (size == 0)
        return err_set(err, ERR_USAGE, "--host %s: not a numeric IPv4 or IPv6 address", host);
    int s = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s >= 0)
        setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (s >= 0 && address.ss_family == AF_INET6)
        setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (s < 0 || bind(s, (struct sockaddr *)&address, size) != 0 || listen(s, BACKLOG) != 0 ||
        getsockname(s, (struct sockaddr *)&address, &size) != 0) {
        err_set(err, ERR_IO, "cannot listen on %s port %d: %s", host, port, strerror(errno));
        if (s >= 0)
            close(s);
        return ERR_IO;
    }
    bool ipv4 = address.ss_family == AF_INET;
    *fd = s;
    *port_out = ntohs(ipv4 ? ((struct sockaddr_in *)&address)->sin_port
                            : ((struct sockaddr_in6 *)&address)->sin6_port);
    snprintf(url, url_bytes, ipv4 ? "http://%s:%d" : "http://[%s]:%d", name, *port_out);
    return 0;
}

void http_socket_tune(int fd)
{
    int on = 1, idle = 60, interval = 15, count = 4; /* seconds: a dead peer is found in 2 min */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
}

void http_socket_progress(int fd, struct http_socket_progress *out)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    memset(&info, 0, sizeof info);
    *out = (struct http_socket_progress){0};
    if (ioctl(fd, SIOCOUTQ, &out->unsent) != 0 ||
        getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0)
        return;
    out->received = info.tcpi_bytes_received;
    out->acked = info.tcpi_bytes_acked;
}

int64_t http_socket_connections(int64_t wanted)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return wanted;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
    int64_t room = limit.rlim_cur > INT32_MAX ? INT32_MAX : (int64_t)limit.rlim_cur;
    room = room > SPARE_FILES + 1 ? room - SPARE_FILES : 1;
    if (wanted <= room)
        return wanted;
    log_event(LOG_WARN, "room for %lld connections only: the limit on open files is %llu",
              (long long)room, (unsigned long long)limit.rlim_cur);
    return room;
}
