/* load: an HTTP load generator for streamed chat completions: N clients, each with one keep-alive
 * connection, one request after the other; one epoll thread, so that it takes little of the machine
 * it measures. Prints one JSON object: requests/s, tokens/s, time to first token and inter-token
 * latency (p50, p99, in ms). Tokens are counted as content frames plus what the usage frame says.
 *
 *   load --port P [--host A] --clients N --seconds S --body FILE|-
 *
 * Every line of the body file is one request body (JSON); clients take them in turn. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CLIENTS_MAX = 4096, BODIES_MAX = 4096, SAMPLES_MAX = 1 << 22, READ_BYTES = 1 << 16 };

struct samples {
    float *ms;
    size_t n;
};

struct client {
    int fd;
    int body;               /* the next one to send */
    double sent, last;      /* seconds; last: the newest content frame of this request */
    char line[READ_BYTES];  /* the unfinished line of the answer */
    size_t n_line;
    int status, started;
};

static struct client clients[CLIENTS_MAX];
static char *bodies[BODIES_MAX];
static size_t body_sizes[BODIES_MAX];
static int n_bodies;
static struct samples first, between, total;
static uint64_t n_requests, n_frames, n_tokens, n_errors;
static int poller;
static struct sockaddr_in address;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void add(struct samples *s, double seconds)
{
    if (!s->ms)
        s->ms = malloc(SAMPLES_MAX * sizeof *s->ms);
    if (s->ms && s->n < SAMPLES_MAX)
        s->ms[s->n++] = (float)(seconds * 1e3);
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double quantile(struct samples *s, double q)
{
    if (!s->n)
        return 0;
    qsort(s->ms, s->n, sizeof *s->ms, ascending);
    return (double)s->ms[(size_t)(q * (double)(s->n - 1))];
}

static int load_bodies(const char *path)
{
    FILE *file = strcmp(path, "-") ? fopen(path, "r") : stdin;
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    if (!file)
        return -1;
    while (n_bodies < BODIES_MAX && (n = getline(&line, &capacity, file)) > 0) {
        while (n && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            line[--n] = 0;
        if (!n)
            continue;
        bodies[n_bodies] = strdup(line);
        body_sizes[n_bodies++] = (size_t)n;
    }
    free(line);
    return n_bodies ? 0 : -1;
}

static int dial(struct client *c)
{
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address))
        return -1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    return epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static int send_all(int fd, const char *data, size_t n)
{
    while (n) {
        ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return -1;
        data += sent;
        n -= (size_t)sent;
    }
    return 0;
}

static int ask(struct client *c)
{
    char head[256];
    int which = c->body++ % n_bodies;
    int n = snprintf(head, sizeof head,
                     "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\n"
                     "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                     body_sizes[which]);
    c->sent = now();
    c->last = 0;
    c->started = 0;
    c->status = 0;
    return send_all(c->fd, head, (size_t)n) || send_all(c->fd, bodies[which], body_sizes[which]);
}

/* One line of the answer; chunk sizes and blank lines fall through. 1: the request has ended. */
static int take_line(struct client *c, const char *line, size_t n, double time)
{
    static const char count[] = "\"completion_tokens\":";
    if (n > 12 && !memcmp(line, "HTTP/1.1 ", 9)) {
        c->status = (int)strtol(line + 9, NULL, 10);
        n_errors += c->status != 200;
    }
    if (n < 6 || memcmp(line, "data: ", 6))
        return 0;
    if (n >= 12 && !memcmp(line, "data: [DONE]", 12)) {
        add(&total, time - c->sent);
        n_requests++;
        return 1;
    }
    const char *usage = memmem(line, n, count, sizeof count - 1);
    if (usage)
        n_tokens += strtoull(usage + sizeof count - 1, NULL, 10);
    if (!memmem(line, n, "\"delta\":{\"content\":", 19))
        return 0;
    n_frames++;
    if (!c->started)
        add(&first, time - c->sent);
    else
        add(&between, time - c->last);
    c->started = 1;
    c->last = time;
    return 0;
}

static int readable(struct client *c)
{
    static char data[READ_BYTES];
    int ended = 0;
    ssize_t n = recv(c->fd, data, sizeof data, 0);
    if (n <= 0)
        return -1;
    double time = now();
    for (ssize_t i = 0; i < n; i++) {
        if (data[i] != '\n') {
            if (c->n_line < sizeof c->line)
                c->line[c->n_line++] = data[i];
            continue;
        }
        ended |= take_line(c, c->line, c->n_line, time);
        c->n_line = 0;
    }
    return ended;
}

static void print_result(int n_clients, double seconds)
{
    printf("{\"clients\":%d,\"seconds\":%.2f,\"requests\":%llu,\"errors\":%llu,"
           "\"requests_per_s\":%.1f,\"tokens_per_s\":%.0f,\"frames_per_s\":%.0f,"
           "\"ttft_ms_p50\":%.3f,\"ttft_ms_p99\":%.3f,\"itl_ms_p50\":%.3f,\"itl_ms_p99\":%.3f,"
           "\"tokens\":%llu}\n",
           n_clients, seconds, (unsigned long long)n_requests, (unsigned long long)n_errors,
           (double)n_requests / seconds, (double)n_tokens / seconds, (double)n_frames / seconds,
           quantile(&first, 0.5), quantile(&first, 0.99), quantile(&between, 0.5),
           quantile(&between, 0.99), (unsigned long long)n_tokens);
}

static int run(int n_clients, double seconds)
{
    struct epoll_event events[256];
    double start = now();
    poller = epoll_create1(0);
    for (int i = 0; i < n_clients; i++) {
        clients[i].body = i;
        if (dial(&clients[i]) || ask(&clients[i])) {
            fprintf(stderr, "load: client %d: %s\n", i, strerror(errno));
            return 1;
        }
    }
    while (now() - start < seconds) {
        int n = epoll_wait(poller, events, 256, 100);
        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;
            int ended = readable(c);
            if (ended < 0) { /* the server closed: dial again */
                close(c->fd);
                c->n_line = 0;
                n_errors += c->status == 200;
                if (dial(c))
                    return 1;
            }
            if (ended && ask(c))
                return 1;
        }
    }
    print_result(n_clients, now() - start);
    return 0;
}

int main(int argc, char **argv)
{
    int n_clients = 1;
    double seconds = 5;
    const char *host = "127.0.0.1", *body = "-";
    address.sin_family = AF_INET;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--port"))
            address.sin_port = htons((uint16_t)strtol(argv[i + 1], NULL, 10));
        else if (!strcmp(argv[i], "--host"))
            host = argv[i + 1];
        else if (!strcmp(argv[i], "--clients"))
            n_clients = (int)strtol(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--seconds"))
            seconds = strtod(argv[i + 1], NULL);
        else if (!strcmp(argv[i], "--body"))
            body = argv[i + 1];
    }
    if (n_clients < 1 || n_clients > CLIENTS_MAX || !address.sin_port || load_bodies(body) ||
        inet_pton(AF_INET, host, &address.sin_addr) != 1) {
        fprintf(stderr, "load: --port P [--host A] --clients 1..%d --seconds S --body FILE\n",
                CLIENTS_MAX);
        return 2;
    }
    return run(n_clients, seconds);
}
