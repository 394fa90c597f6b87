/* The yardstick for `llmgen serve`: a plain C server of the same behaviour. One epoll set, one absolute timerfd, streams
 * paced one by one at absolute due times, one ~200-byte event a send; the first token's write carries the role-only event
 * too, a second write behind the last one [DONE] and the end of the body.
 *
 *   sse_server [-p PORT] [-f ttft ms] [-i interval ms] [-o core]
 *
 * All intervals are equal, so the due times lie in two queues (first tokens, further ones) and need no heap: less work
 * than any server with distributions can do.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
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

enum { BATCH = 64, READ_BYTES = 65536, MAX_FD = 1 << 20 };

struct stream {
    int fd;
    int tokens, sent;
    int64_t due;
    char id[16];
    struct stream *next;
};

struct queue {
    struct stream *first, *last;
};

static struct queue first_tokens, further;
static struct stream *streams[MAX_FD];
static int64_t ttft_ns = 100000000, interval_ns = 20000000;
static char buffer[READ_BYTES];

static const char HEAD[] = "HTTP/1.1 200 OK\r\nserver: sse_server\r\ncache-control: no-cache\r\n"
                           "content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
static const char WORDS[8][8] = {" the", " of", " there", " which", " time", " would", " about", " many"};

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void append(struct queue *q, struct stream *s) {
    s->next = NULL;
    if (q->last)
        q->last->next = s;
    else
        q->first = s;
    q->last = s;
}

static char *put(char *to, const char *text, size_t size) {
    memcpy(to, text, size);
    return to + size;
}

#define PUT(to, text) put(to, text, sizeof(text) - 1)

static char *put_event(char *to, struct stream *s, const char *delta, size_t delta_size, const char *finish,
                       size_t finish_size) {
    char *start = to;
    to = PUT(to + 6, "data: {\"id\":\"chatcmpl-");
    to = put(to, s->id, sizeof s->id);
    to = PUT(to, "\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\",\"choices\":[{\"index\":0,"
                 "\"delta\":{");
    to = put(to, delta, delta_size);
    to = PUT(to, "\"},\"logprobs\":null,\"finish_reason\":");
    to = put(to, finish, finish_size);
    to = PUT(to, "}]}\n\n");
    unsigned size = to - start - 6;
    static const char hexes[] = "0123456789abcdef";
    for (int i = 0; i < 4; i++)
        start[i] = hexes[(size >> (12 - 4 * i)) & 15];
    start[4] = '\r';
    start[5] = '\n';
    return PUT(to, "\r\n");
}

static int send_all(struct stream *s, const char *data, size_t size) {
    return send(s->fd, data, size, MSG_NOSIGNAL) == (ssize_t)size; /* a client that does not read is dropped */
}

static void drop(int fd) {
    struct stream *s = streams[fd];
    if (s)
        s->fd = -1; /* freed at its due time */
    streams[fd] = NULL;
    close(fd);
}

/* Sends one event; returns 0 when the stream is over. */
static int emit(struct stream *s) {
    char delta[64], *to = buffer;
    const char *word = WORDS[(s->sent * 5) & 7];
    if (s->sent == 0)
        to = put_event(to, s, "\"role\":\"assistant\",\"content\":\"", 30, "null", 4);
    size_t size = PUT(delta, "\"content\":\"") - delta;
    memcpy(delta + size, word, 8);
    size += strlen(word);
    int last = ++s->sent == s->tokens;
    to = put_event(to, s, delta, size, last ? "\"length\"" : "null", last ? 8 : 4);
    if (!send_all(s, buffer, to - buffer) ||
        (last && !send_all(s, "000e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n", 27))) {
        drop(s->fd);
        return 0;
    }
    if (last)
        streams[s->fd] = NULL;
    return !last;
}

static void on_request(int fd) {
    static uint64_t serial;
    ssize_t got = recv(fd, buffer, READ_BYTES - 1, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        drop(fd);
        return;
    }
    buffer[got] = 0;
    char *found = strstr(buffer, "\"max_tokens\":"); /* requests here are small and come in one piece */
    struct stream *s = calloc(1, sizeof *s);
    if (s == NULL || streams[fd] != NULL) {
        fprintf(stderr, "sse_server: a request in pieces or before the last answer's end\n");
        exit(1);
    }
    s->fd = fd;
    s->tokens = found ? atoi(found + 13) : 128;
    s->due = now_ns() + ttft_ns;
    snprintf(buffer, 17, "%016lx", serial++);
    memcpy(s->id, buffer, 16);
    streams[fd] = s;
    append(&first_tokens, s);
    if (!send_all(s, HEAD, sizeof HEAD - 1))
        drop(fd);
}

static int emit_due(int64_t now, int64_t *next) {
    int count = 0;
    for (;;) {
        struct queue *q = &further;
        if (first_tokens.first && (!further.first || first_tokens.first->due < further.first->due))
            q = &first_tokens;
        struct stream *s = q->first;
        if (s == NULL) {
            *next = -1;
            return count;
        }
        if (s->due > now || count == BATCH) {
            *next = s->due;
            return count;
        }
        q->first = s->next;
        if (q->first == NULL)
            q->last = NULL;
        count++;
        if (s->fd >= 0 && emit(s)) {
            s->due += interval_ns;
            append(&further, s);
        } else {
            free(s);
        }
    }
}

int main(int argc, char **argv) {
    int port = 0, core = -1, option, one = 1;
    while ((option = getopt(argc, argv, "p:f:i:o:")) != -1) {
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'f': ttft_ns = (int64_t)(atof(optarg) * 1e6); break;
        case 'i': interval_ns = (int64_t)(atof(optarg) * 1e6); break;
        case 'o': core = atoi(optarg); break;
        default: return 2;
        }
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
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 4096) < 0)
        die("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("sse_server: listening on http://127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    int epoll = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    event = (struct epoll_event){.events = EPOLLIN | EPOLLET, .data.fd = timer};
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event);
    for (;;) {
        struct epoll_event ready[BATCH];
        int64_t next;
        int busy = emit_due(now_ns(), &next) == BATCH || (next >= 0 && next <= now_ns());
        if (!busy && next >= 0) {
            struct itimerspec when = {.it_value = {next / 1000000000, next % 1000000000}};
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
        }
        int count = epoll_wait(epoll, ready, BATCH, busy ? 0 : -1);
        for (int i = 0; i < count; i++) {
            int fd = ready[i].data.fd;
            if (fd == timer)
                continue;
            if (fd != listener) {
                on_request(fd);
                continue;
            }
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                if (fd >= MAX_FD)
                    die("too many descriptors");
                event = (struct epoll_event){.events = EPOLLIN | EPOLLRDHUP, .data.fd = fd};
                epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
            }
        }
    }
}
