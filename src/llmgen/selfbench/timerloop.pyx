"""The yardstick of the pacer: a C loop that waits for one due time after the other on an absolute timerfd, in an epoll
set as the core's is, and notes how late it woke. Nothing is sent, no Python object is touched.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint32_t

import os

import numpy as np


cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    struct itimerspec:
        timespec it_interval
        timespec it_value
    int CLOCK_MONOTONIC
    int clock_gettime(int, timespec*)

cdef extern from "<sys/timerfd.h>" nogil:
    enum: TFD_NONBLOCK, TFD_CLOEXEC, TFD_TIMER_ABSTIME
    int timerfd_create(int, int)
    int timerfd_settime(int, int, const itimerspec*, itimerspec*)

cdef extern from "<sys/epoll.h>" nogil:
    enum: EPOLLIN, EPOLLET, EPOLL_CTL_ADD, EPOLL_CLOEXEC
    struct epoll_event:
        uint32_t events
    int epoll_create1(int)
    int epoll_ctl(int, int, int, epoll_event*)
    int epoll_wait(int, epoll_event*, int, int)

cdef extern from "<unistd.h>" nogil:
    int close(int)


cdef int64_t NS = 1000000000
cdef int64_t LEAD_NS = 10000000  # the loop is in its stride at the first due time


cdef inline int64_t now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * NS + t.tv_nsec


cdef Py_ssize_t wait_for_each(
    int epoll, int timer, const int64_t* due, int64_t* lag, Py_ssize_t count
) noexcept nogil:
    """How many were waited for, all unless a signal came; or -errno."""
    cdef epoll_event event
    cdef itimerspec when
    cdef int64_t start = now_ns() + LEAD_NS
    cdef int64_t at, now
    cdef Py_ssize_t number
    when.it_interval.tv_sec = when.it_interval.tv_nsec = 0
    for number in range(count):
        at = start + due[number]
        now = now_ns()
        while now < at:
            when.it_value.tv_sec = at // NS
            when.it_value.tv_nsec = at % NS
            if timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL) < 0:
                return -errno
            if epoll_wait(epoll, &event, 1, -1) < 0:
                return number if errno == EINTR else -errno
            now = now_ns()
        lag[number] = now - at
    return count


cdef Py_ssize_t timer_loop(const int64_t* due, int64_t* lag, Py_ssize_t count) noexcept nogil:
    cdef int epoll = epoll_create1(EPOLL_CLOEXEC)
    cdef int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
    cdef epoll_event event
    cdef Py_ssize_t done
    event.events = EPOLLIN | EPOLLET  # the timer is set anew, never read
    if epoll < 0 or timer < 0 or epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event) < 0:
        done = -errno
    else:
        done = wait_for_each(epoll, timer, due, lag, count)
    if timer >= 0:
        close(timer)
    if epoll >= 0:
        close(epoll)
    return done


def lags(const int64_t[::1] due):
    """How late each of the due times (ns after the start, ascending) was waited for, in ns; a signal ends it early."""
    late = np.empty(due.shape[0], np.int64)
    cdef int64_t[::1] view = late
    cdef Py_ssize_t done = 0
    if due.shape[0]:
        with nogil:
            done = timer_loop(&due[0], &view[0], due.shape[0])
    if done < 0:
        raise OSError(-done, os.strerror(-done))
    return late[:done]
