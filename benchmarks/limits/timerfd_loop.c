/* The limit for the pacer: waits for one due time after the other on an absolute timerfd and notes how late it woke.
 *
 *   timerfd_loop [-r rate per s] [-n count] [-S seed] [-f FILE] [-s spin us] [-o core] [-p PORT [-t tokens]]
 *
 * Due times are a Poisson process, or int64 ns after the start from FILE. -s: waits only until so long before the due
 * time and spins for the rest. -p: sends a streaming request to 127.0.0.1 at each of them, on a connection that is idle
 * or a new one, and reads the answers away between them; without it nothing is sent. Prints one line of JSON; lags in
 * microseconds, taken before the send.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
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
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 65536, READY = 64, ANSWERS_WITHIN_S = 10 };

struct conn {
    int fd;
    size_t seen;  /* bytes in last */
    char last[5]; /* the answer's last bytes: an answer ends with the empty chunk */
};

static struct conn *conns, **idle;
static int opened, idle_count, epoll, port;
static size_t answered;
static char request[1024];
static size_t request_size;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
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

static uint64_t state = 1;

static double uniform(void) { /* splitmix64, (0, 1] */
    uint64_t x = state += 0x9E3779B97F4A7C15;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    x ^= x >> 31;
    return ((x >> 11) + 1) * 0x1p-53;
}

static int64_t *due_from_file(const char *file, size_t *count) {
    FILE *in = fopen(file, "rb");
    if (in == NULL || fseek(in, 0, SEEK_END) != 0)
        die(file);
    *count = ftell(in) / sizeof(int64_t);
    rewind(in);
    int64_t *due = malloc(*count * sizeof *due + 1);
    if (due == NULL || fread(due, sizeof *due, *count, in) != *count)
        die(file);
    fclose(in);
    return due;
}

static int64_t *due_poisson(double rate, size_t count) {
    int64_t *due = malloc(count * sizeof *due + 1);
    double at = 0;
    if (due == NULL)
        die("due times");
    for (size_t i = 0; i < count; i++)
        due[i] = (int64_t)((at += -log(uniform()) / rate) * 1e9);
    return due;
}

static struct conn *open_connection(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1;
    if (opened == MAX_CONNECTIONS) {
        fprintf(stderr, "timerfd_loop: %d connections and none is idle\n", opened);
        exit(1);
    }
    struct conn *c = &conns[opened++];
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0)
        die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event) < 0)
        die("epoll_ctl");
    return c;
}

static void send_one(void) {
    struct conn *c = idle_count > 0 ? idle[--idle_count] : open_connection();
    c->seen = 0;
    if (send(c->fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size)
        die("send");
}

static void read_one(struct conn *c) {
    static char buffer[65536];
    ssize_t got = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        die("the server closed");
    for (ssize_t i = got > 5 ? got - 5 : 0; i < got; i++) {
        memmove(c->last, c->last + 1, sizeof c->last - 1);
        c->last[sizeof c->last - 1] = buffer[i];
    }
    c->seen += got;
    if (c->seen > 5 && memcmp(c->last, "0\r\n\r\n", 5) == 0) {
        idle[idle_count++] = c;
        answered++;
    }
}

/* Waits for the timer or an answer, and reads one answer after the other until the next request is due. */
static void wait_and_read(int64_t due, int timeout_ms) {
    struct epoll_event ready[READY];
    int count = epoll_wait(epoll, ready, READY, timeout_ms);
    for (int i = 0; i < count; i++) {
        if (ready[i].data.ptr != NULL)
            read_one(ready[i].data.ptr);
        if (now_ns() >= due)
            return; /* level-triggered: the others come again */
    }
}

static void prepare_to_send(int tokens) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    conns = calloc(MAX_CONNECTIONS, sizeof *conns);
    idle = calloc(MAX_CONNECTIONS, sizeof(struct conn *));
    if (conns == NULL || idle == NULL)
        die("connections");
    char body[512];
    int size = snprintf(body, sizeof body,
                        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"say something\"}],"
                        "\"stream\":true,\"max_tokens\":%d}", tokens);
    request_size = snprintf(request, sizeof request,
                            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                            "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", port, size, body);
}

static void pin(int core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0)
        die("sched_setaffinity");
}

int main(int argc, char **argv) {
    double rate = 2000;
    size_t count = 10000;
    int64_t spin = 0;
    const char *file = NULL;
    int core = -1, tokens = 4, option;
    while ((option = getopt(argc, argv, "r:n:S:f:s:o:p:t:")) != -1) {
        switch (option) {
        case 'r': rate = atof(optarg); break;
        case 'n': count = strtoul(optarg, NULL, 10); break;
        case 'S': state = strtoull(optarg, NULL, 10); break;
        case 'f': file = optarg; break;
        case 's': spin = (int64_t)(atof(optarg) * 1e3); break;
        case 'o': core = atoi(optarg); break;
        case 'p': port = atoi(optarg); break;
        case 't': tokens = atoi(optarg); break;
        default: return 2;
        }
    }
    if (core >= 0)
        pin(core);
    int64_t *due = file != NULL ? due_from_file(file, &count) : due_poisson(rate, count);
    if (count == 0) {
        fprintf(stderr, "timerfd_loop: no due times\n");
        return 2;
    }
    int64_t *lag = malloc(count * sizeof *lag);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    epoll = epoll_create1(0);
    if (lag == NULL || timer < 0 || epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event) < 0)
        die("set-up");
    if (port != 0)
        prepare_to_send(tokens);
    int64_t start = now_ns() + 10000000; /* 10 ms: the loop is in its stride at the first one */
    for (size_t i = 0; i < count; i++) {
        int64_t at = start + due[i], now;
        while ((now = now_ns()) < at) {
            int spinning = at - now <= spin;
            if (!spinning) {
                struct itimerspec when = {.it_value = {(at - spin) / 1000000000, (at - spin) % 1000000000}};
                timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
            }
            if (!spinning || port != 0)
                wait_and_read(at, spinning ? 0 : -1);
        }
        lag[i] = now - at;
        if (port != 0)
            send_one();
    }
    int64_t until = now_ns() + ANSWERS_WITHIN_S * 1000000000LL;
    while (port != 0 && answered < count && now_ns() < until)
        wait_and_read(until, 100);
    double span = due[count - 1] / 1e9;
    qsort(lag, count, sizeof *lag, order);
    printf("{\"n\": %zu, \"rate\": %.1f, \"answered\": %zu, \"connections\": %d, \"spin_us\": %.1f, \"lag_us\": "
           "{\"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"max\": %.1f}}\n",
           count, span > 0 ? count / span : 0.0, answered, opened, spin / 1e3, lag[count / 2] / 1e3,
           lag[(size_t)(0.9 * (count - 1))] / 1e3, lag[(size_t)(0.99 * (count - 1))] / 1e3, lag[count - 1] / 1e3);
    return 0;
}
