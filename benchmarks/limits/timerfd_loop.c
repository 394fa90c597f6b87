/* The limit for the pacer: waits for one due time after the other on an absolute timerfd and notes how late it woke.
 *
 *   timerfd_loop [-r rate per s] [-n count] [-S seed] [-f FILE] [-s spin us] [-o core]
 *
 * Due times are a Poisson process, or int64 ns after the start from FILE. -s: waits only until so long before the due
 * time and spins for the rest. Prints one line of JSON; lags in microseconds.
 */
#include <math.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

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

static uint64_t state;

static double uniform(void) { /* splitmix64, (0, 1] */
    uint64_t x = state += 0x9E3779B97F4A7C15;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    x ^= x >> 31;
    return ((x >> 11) + 1) * 0x1p-53;
}

int main(int argc, char **argv) {
    double rate = 2000;
    size_t count = 10000;
    int64_t spin = 0;
    const char *file = NULL;
    int core = -1, option;
    state = 1;
    while ((option = getopt(argc, argv, "r:n:S:f:s:o:")) != -1) {
        switch (option) {
        case 'r': rate = atof(optarg); break;
        case 'n': count = strtoul(optarg, NULL, 10); break;
        case 'S': state = strtoull(optarg, NULL, 10); break;
        case 'f': file = optarg; break;
        case 's': spin = (int64_t)(atof(optarg) * 1e3); break;
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
    int64_t *due;
    if (file != NULL) {
        FILE *in = fopen(file, "rb");
        if (in == NULL || fseek(in, 0, SEEK_END) != 0)
            die(file);
        count = ftell(in) / sizeof *due;
        rewind(in);
        due = malloc(count * sizeof *due);
        if (due == NULL || fread(due, sizeof *due, count, in) != count)
            die(file);
    } else {
        double at = 0;
        due = malloc(count * sizeof *due);
        for (size_t i = 0; i < count; i++)
            due[i] = (int64_t)((at += -log(uniform()) / rate) * 1e9);
    }
    if (count == 0) {
        fprintf(stderr, "timerfd_loop: no due times\n");
        return 2;
    }
    int64_t *lag = malloc(count * sizeof *lag);
    int epoll = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event);
    int64_t start = now_ns() + 10000000; /* 10 ms: the loop is in its stride at the first one */
    for (size_t i = 0; i < count; i++) {
        int64_t at = start + due[i], now;
        while ((now = now_ns()) < at) {
            if (at - now > spin) {
                struct itimerspec when = {.it_value = {(at - spin) / 1000000000, (at - spin) % 1000000000}};
                timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
                epoll_wait(epoll, &event, 1, -1);
            }
        }
        lag[i] = now - at;
    }
    double span = due[count - 1] / 1e9;
    qsort(lag, count, sizeof *lag, order);
    printf("{\"n\": %zu, \"rate\": %.1f, \"spin_us\": %.1f, \"lag_us\": {\"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, "
           "\"max\": %.1f}}\n",
           count, span > 0 ? count / span : 0.0, spin / 1e3, lag[count / 2] / 1e3,
           lag[(size_t)(0.9 * (count - 1))] / 1e3, lag[(size_t)(0.99 * (count - 1))] / 1e3, lag[count - 1] / 1e3);
    return 0;
}
