# Which target of a cluster gets the next request (--balance, target.weights).

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from llmgen.core cimport BALANCE_LEAST_IN_FLIGHT, BALANCE_RANDOM, Core, Target


cdef enum:
    ANY_TARGET = 0xFFFF          # = plan.ANY_TARGET


cdef inline bint is_before(const Core* k, const Target* one, const Target* other) noexcept nogil:
    """Whether `one` gets the next request rather than `other`."""
    cdef uint64_t load, than
    if k.options.balance == BALANCE_LEAST_IN_FLIGHT:
        # in flight per weight, cross-multiplied; idle targets are equals, so that a light one gets its share of little load
        load = <uint64_t>one.in_flight * other.weight
        than = <uint64_t>other.in_flight * one.weight
        if load != than:
            return load < than
    return one.credit > other.credit


cdef inline uint16_t choose_target(Core* k, uint16_t planned) noexcept nogil:
    """The planned one, or by --balance; each gets its weight's share of the requests."""
    cdef uint32_t i, best = 0
    cdef uint64_t left
    if planned < k.target_count:
        return planned
    if k.target_count == 1:
        return 0
    if k.options.balance == BALANCE_RANDOM:
        k.random ^= k.random << 13
        k.random ^= k.random >> 7
        k.random ^= k.random << 17
        left = k.random % k.weights
        while left >= k.targets[best].weight:
            left -= k.targets[best].weight
            best += 1
        return <uint16_t>best
    # smooth weighted round-robin (nginx): the turns of a heavy target are spread between those of the others; where
    # the least in flight is wanted, it decides between equals
    for i in range(k.target_count):
        k.targets[i].credit = min(k.targets[i].credit + k.targets[i].weight, <int64_t>k.weights)
        if i and is_before(k, &k.targets[i], &k.targets[best]):
            best = i
    k.targets[best].credit = max(k.targets[best].credit - k.weights, -<int64_t>k.weights)
    return <uint16_t>best
