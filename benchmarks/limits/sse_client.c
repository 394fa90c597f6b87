/* The limit for a client: one epoll set, one recv (or recvmsg with the kernel's stamp) a readiness, one stamp a read,
 * `data:` lines found with memchr, nothing else. Streams chat completions over HTTP/1.1 with keep-alive.
 *
 *   sse_client -p PORT [-h HOST] [-c connections] [-n tokens] [-r ramp s] [-t seconds] [-k] [-o core]
 *
 * Prints one line of JSON: events, reads, CPU of the measured seconds (user and system), TTFT and gaps in microseconds.
 * -k: SO_TIMESTAMPNS through recvmsg; TTFT and gaps are then by the kernel's stamps.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READ_BYTES = 65536, BATCH = 256, MAX_SAMPLES = 1 << 24 };

struct conn {
    int fd;
    int running;
    int tokens;         /* data lines of this answer so far, the role-only one excluded */
    size_t line;        /* bytes of the unfinished line */
    char head[16];      /* its first bytes */
    int64_t sent, last; /* stamps; last: of the previous read with an event */
};

static char request[1024];
static size_t request_size;
static int64_t *ttft, *gaps;
static size_t ttft_count, gap_count;
static uint64_t events, reads, answers, bytes;
static int kernel_stamps, measuring;

static int64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int order(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void print_quantiles(const char *name, int64_t *values, size_t count) {
    qsort(values, count, sizeof *values, order);
    printf(", \"%s\": {\"n\": %zu", name, count);
    if (count > 0) {
        static const double at[] = {0.5, 0.9, 0.99};
        static const char *labels[] = {"p50", "p90", "p99"};
        for (int i = 0; i < 3; i++)
            printf(", \"%s\": %.1f", labels[i], values[(size_t)(at[i] * (count - 1))] / 1000.0);
        printf(", \"max\": %.1f", values[count - 1] / 1000.0);
    }
    printf("}");
}

static void send_request(struct conn *c) {
    c->tokens = -1; /* the first data line is the role-only event */
    c->running = 1;
    c->last = 0;
    c->sent = now_ns(kernel_stamps ? CLOCK_REALTIME : CLOCK_MONOTONIC);
    if (send(c->fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size)
        die("send");
}

static ssize_t read_once(int fd, char *buffer, int64_t *stamp) {
    if (!kernel_stamps) {
        ssize_t got = recv(fd, buffer, READ_BYTES, MSG_DONTWAIT);
        *stamp = now_ns(CLOCK_MONOTONIC);
        return got;
    }
    char control[64];
    struct iovec piece = {buffer, READ_BYTES};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
    ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (got > 0 && header != NULL && header->cmsg_type == SCM_TIMESTAMPNS) {
        struct timespec *t = (struct timespec *)CMSG_DATA(header);
        *stamp = (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
    } else {
        *stamp = now_ns(CLOCK_REALTIME);
    }
    return got;
}

/* One whole line without its LF; returns 1 at the end of the answer (the last chunk's size line). */
static int line_done(struct conn *c, int *tokens_in_read) {
    if (c->line >= 6 && memcmp(c->head, "data: ", 6) == 0) {
        if (c->head[6] != '[') { /* not [DONE] */
            events += measuring;
            if (++c->tokens > 0)
                ++*tokens_in_read;
        }
    } else if (c->line == 2 && c->head[0] == '0' && c->head[1] == '\r') {
        return 1;
    }
    return 0;
}

static void on_readable(struct conn *c) {
    static char buffer[READ_BYTES];
    int64_t stamp;
    int tokens = 0, over = 0;
    ssize_t got = read_once(c->fd, buffer, &stamp);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        die("the server closed");
    reads += measuring;
    bytes += measuring ? got : 0;
    for (char *at = buffer, *end = buffer + got; at < end;) {
        char *lf = memchr(at, '\n', end - at);
        size_t size = (lf ? lf : end) - at;
        for (size_t i = 0; c->line + i < sizeof c->head && i < size; i++)
            c->head[c->line + i] = at[i];
        c->line += size;
        if (lf == NULL)
            break;
        over |= line_done(c, &tokens);
        c->line = 0;
        at = lf + 1;
    }
    if (tokens > 0) {
        if (measuring && c->last == 0 && ttft_count < MAX_SAMPLES)
            ttft[ttft_count++] = stamp - c->sent;
        if (measuring && c->last != 0 && gap_count < MAX_SAMPLES)
            gaps[gap_count++] = stamp - c->last;
        c->last = stamp;
    }
    if (over) {
        answers += measuring;
        send_request(c);
    }
}

static double seconds(struct timeval t) { return t.tv_sec + t.tv_usec / 1e6; }

int main(int argc, char **argv) {
    const char *host = "127.0.0.1";
    int port = 0, connections = 100, tokens = 200, core = -1, option;
    double ramp = 1, duration = 5;
    while ((option = getopt(argc, argv, "h:p:c:n:r:t:ko:")) != -1) {
        switch (option) {
        case 'h': host = optarg; break;
        case 'p': port = atoi(optarg); break;
        case 'c': connections = atoi(optarg); break;
        case 'n': tokens = atoi(optarg); break;
        case 'r': ramp = atof(optarg); break;
        case 't': duration = atof(optarg); break;
        case 'k': kernel_stamps = 1; break;
        case 'o': core = atoi(optarg); break;
        default: return 2;
        }
    }
    if (port == 0 || connections < 1) {
        fprintf(stderr, "usage: sse_client -p PORT [-h HOST] [-c N] [-n TOKENS] [-r RAMP] [-t SECONDS] [-k] [-o CORE]\n");
        return 2;
    }
    if (core >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(core, &set);
        if (sched_setaffinity(0, sizeof set, &set) < 0)
            die("sched_setaffinity");
    }
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    char body[512];
    int body_size = snprintf(body, sizeof body,
                             "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"say something long\"}],"
                             "\"stream\":true,\"max_tokens\":%d}", tokens);
    request_size = snprintf(request, sizeof request,
                            "POST /v1/chat/completions HTTP/1.1\r\nHost: %s:%d\r\nContent-Type: application/json\r\n"
                            "Content-Length: %d\r\n\r\n%s", host, port, body_size, body);
    ttft = malloc(MAX_SAMPLES * sizeof *ttft);
    gaps = malloc(MAX_SAMPLES * sizeof *gaps);
    struct conn *conns = calloc(connections, sizeof *conns);
    int epoll = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1 || !ttft || !gaps || !conns || epoll < 0)
        die("set-up");
    for (int i = 0; i < connections; i++) {
        int one = 1;
        conns[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (conns[i].fd < 0)
            die("socket");
        setsockopt(conns[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (kernel_stamps)
            setsockopt(conns[i].fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
        if (connect(conns[i].fd, (struct sockaddr *)&address, sizeof address) < 0)
            die("connect");
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &conns[i]};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, conns[i].fd, &event) < 0)
            die("epoll_ctl");
    }
    /* Requests start evenly over the ramp, so that the streams' tokens are spread over the token interval. */
    int64_t start = now_ns(CLOCK_MONOTONIC), measure_at = start + (int64_t)((ramp + 1) * 1e9);
    int64_t end = measure_at + (int64_t)(duration * 1e9), began = 0;
    struct rusage before = {0}, after;
    int started = 0;
    alarm((unsigned)(ramp + duration) + 30); /* a server that falls silent ends the program */
    for (;;) {
        struct epoll_event ready[BATCH];
        int64_t now = now_ns(CLOCK_MONOTONIC);
        while (started < connections && start + (int64_t)(ramp * 1e9 * started / connections) <= now)
            send_request(&conns[started++]);
        if (!measuring && now >= measure_at) {
            measuring = 1;
            began = now;
            getrusage(RUSAGE_SELF, &before);
        }
        if (now >= end)
            break;
        /* once all run there is always an answer to come, and a timeout would cost a timer of the kernel at every wait */
        int count = epoll_wait(epoll, ready, BATCH, started < connections ? 1 : -1);
        for (int i = 0; i < count; i++)
            on_readable(ready[i].data.ptr);
    }
    getrusage(RUSAGE_SELF, &after);
    double took = (now_ns(CLOCK_MONOTONIC) - began) / 1e9;
    double user = seconds(after.ru_utime) - seconds(before.ru_utime);
    double system = seconds(after.ru_stime) - seconds(before.ru_stime);
    printf("{\"seconds\": %.3f, \"connections\": %d, \"events\": %lu, \"events_per_s\": %.0f, \"reads\": %lu, "
           "\"answers\": %lu, \"bytes\": %lu, \"user_s\": %.3f, \"sys_s\": %.3f, \"us_per_event\": %.3f, "
           "\"user_us_per_event\": %.3f",
           took, connections, events, events / took, reads, answers, bytes, user, system,
           events ? (user + system) * 1e6 / events : 0.0, events ? user * 1e6 / events : 0.0);
    print_quantiles("ttft_us", ttft, ttft_count);
    print_quantiles("gap_us", gaps, gap_count);
    printf("}\n");
    return 0;
}
