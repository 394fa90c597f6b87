"""Requests in flight.

Timeouts are lazy: an event only stores its time in the exchange. The wheel holds every exchange at the earliest time at which
it may have expired, whatever happens to it until then; when its slot comes up, the deadline is worked out anew and the
exchange either expires or moves on.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from llmgen.balance cimport choose_target
from llmgen.core cimport WHEEL_SHIFT, WHEEL_SLOTS, Core, Target
from llmgen.exchange cimport (
    EXCHANGE_SENDING,
    EXCHANGE_WAITING,
    FLAG_HELD_BACK,
    MODE_ERROR,
    MODE_UNKNOWN,
    STATUS_ABANDONED,
    STATUS_CONNECT_ERROR,
    STATUS_CONNECT_REFUSED,
    STATUS_CONNECT_TIMEOUT,
    STATUS_FIRST_TOKEN_TIMEOUT,
    STATUS_IDLE_TIMEOUT,
    STATUS_IN_FLIGHT,
    STATUS_OK,
    STATUS_RATE_LIMITED,
    STATUS_TOTAL_TIMEOUT,
    Exchange,
    exchange_begin,
    exchange_finish,
    exchange_free,
)
from llmgen.pacer cimport ROOT, Due, PlanRow, Slot, pacer_next_turn, pacer_push, pacer_release
from llmgen.recorder cimport (
    HIST_LAG,
    STREAM_REQUESTS,
    RequestRow,
    records_close_request,
    records_commit,
    records_new_request,
    records_observe,
)
from llmgen.session cimport (
    Session,
    Turn,
    session_begin,
    session_close,
    session_end,
    session_find,
    session_keep,
    session_open,
    session_turn,
)


cdef enum:
    CHUNK = 64                   # exchanges allocated at a time
    SAMPLES_PER_STATUS = 20      # of errors.jsonl (docs/contract.md)
    NO_TIME = -1
    RETRY_FIRST_NS = 500000000


# -- memory -------------------------------------------------------------------------------------------------------------

cdef Exchange* take_exchange(Core* k) noexcept nogil:
    cdef Exchange* chunk
    cdef void** grown
    cdef Exchange* x
    cdef int i
    if k.free_exchanges == NULL:
        grown = <void**>realloc(k.exchange_chunks, (k.exchange_chunk_count + 1) * sizeof(void*))
        if grown == NULL:
            return NULL
        k.exchange_chunks = grown
        chunk = <Exchange*>calloc(CHUNK, sizeof(Exchange))
        if chunk == NULL:
            return NULL
        k.exchange_chunks[k.exchange_chunk_count] = chunk
        k.exchange_chunk_count += 1
        for i in range(CHUNK):
            chunk[i].next = k.free_exchanges
            k.free_exchanges = &chunk[i]
    x = k.free_exchanges
    k.free_exchanges = x.next
    x.next = x.before = x.send_next = x.wheel_next = x.wheel_before = NULL
    return x


cdef void flight_free(Core* k) noexcept nogil:
    """Gives back all exchanges; none may be in flight."""
    cdef uint32_t i
    for i in range(k.exchange_chunk_count):
        free(k.exchange_chunks[i])
    free(k.exchange_chunks)
    k.exchange_chunks = NULL
    k.exchange_chunk_count = 0
    k.free_exchanges = NULL


# -- begin and end ------------------------------------------------------------------------------------------------------

cdef Exchange* flight_begin(Core* k, const Due* due, int64_t now) noexcept nogil:
    """Takes up what is due: a row, written and committed at once, and its exchange. NULL: the disk or the memory is full."""
    cdef Exchange* x = take_exchange(k)
    cdef RequestRow* row
    cdef const PlanRow* plan = due.row
    if x == NULL:
        return NULL
    row = records_new_request(k.records, &x.number, &x.segment)
    if row == NULL:
        x.next = k.free_exchanges
        k.free_exchanges = x
        return NULL
    memset(row, 0, sizeof(RequestRow))
    # every stamp starts as "did not happen"; due .. max_gap lie side by side
    memset(&row.due, 0xFF, <size_t>(<uint8_t*>&row.index - <uint8_t*>&row.due))
    row.due = due.promised
    if plan.after and row.due > k.pacer.start + plan.due:
        row.flags |= FLAG_HELD_BACK
    row.dispatch = now
    row.attempt = due.attempt
    row.max_gap = NO_TIME
    row.index = plan.index
    row.klass = plan.klass
    row.worker = <uint16_t>k.records.worker
    row.turn = plan.turn
    row.session = plan.session
    row.status = STATUS_IN_FLIGHT
    row.connection = -1
    row.planned_input = plan.planned_input
    row.planned_output = plan.planned_output
    row.input_tokens = row.output_tokens = row.reasoning_tokens = row.cached_tokens = -1
    row.body_bytes = plan.body_bytes
    row.first_token_user = row.last_token_user = NO_TIME
    x.row = row
    x.plan = plan
    x.plan_segment = due.segment
    x.head = plan.head
    x.expect = &k.heads[plan.head]
    x.state = EXCHANGE_WAITING
    x.active = now
    exchange_begin(&k.answers, x)
    # a session's turn is awaited by the next one, which quotes it
    x.capture = plan.session >= 0 and pacer_next_turn(&k.pacer, plan, due.segment) != NULL
    k.open_turns += x.capture
    records_commit(k.records, STREAM_REQUESTS)
    records_observe(k.records, x.group, HIST_LAG, now - due.due, 1)
    if now - due.due > k.lag_max:
        k.lag_max = now - due.due
    k.dispatched += 1
    k.in_flight += 1
    flight_deadline(k, x, now)
    return x


cdef void flight_finish(Core* k, Exchange* x, int status, int64_t end) noexcept nogil:
    """The one end of a request. The caller has taken it from its connection and from every list of the pool."""
    cdef Target* target = &k.targets[x.row.target]
    wheel_remove(k, x)
    exchange_finish(&k.answers, x, status, end)
    if status != STATUS_OK and k.sample_counts[status] < SAMPLES_PER_STATUS * 4:
        # four times: the 20 of a status and HTTP code are chosen when errors.jsonl is written
        k.sample_counts[status] += 1
        keep_sample(k, x, status)
    if k.answers.keep_bodies:
        keep_body(k, x)
    k.bytes_in += x.row.bytes_in
    k.in_flight -= 1
    target.in_flight -= 1
    go_on(k, x, status, end if end > 0 else k.network.now)
    records_close_request(k.records, x.segment)      # the row may be unmapped from here on
    pacer_release(&k.pacer, x.plan_segment)
    exchange_free(x)
    x.next = k.free_exchanges
    k.free_exchanges = x


cdef void go_on(Core* k, Exchange* x, int status, int64_t end) noexcept nogil:
    """What this end makes due: a further attempt, the session's next turn, the closed loop's next request."""
    cdef const PlanRow* plan = <const PlanRow*>x.plan
    cdef Slot slot
    cdef bint pushed = False
    k.open_turns -= x.capture
    memset(&slot, 0, sizeof(slot))
    slot.segment = x.plan_segment
    if x.row.attempt < k.options.retries and not k.stopped and may_retry(status, x.row.http_status):
        slot.row = plan
        slot.attempt = x.row.attempt + 1
        slot.promised = x.row.due
        slot.due = end + retry_wait(x)
        if slot.due < x.row.due + k.options.timeout_total and slot.due < k.drain_until:
            pushed = pacer_push(&k.pacer, &slot)
        if pushed:
            return
    if plan.after:
        release_turns(k, plan, end)
    elif plan.session >= 0 and not own_time(x):
        pushed = next_turn(k, x, plan, status, end)
    if k.options.closed_slots and k.offering and not pushed:
        slot.row = NULL
        slot.attempt = 0
        slot.due = slot.promised = end
        pacer_push(&k.pacer, &slot)


cdef bint may_retry(int status, int http_status) noexcept nogil:
    """Connection errors, 429 and 503: the server has not begun to answer."""
    return (
        status in (STATUS_CONNECT_REFUSED, STATUS_CONNECT_TIMEOUT, STATUS_CONNECT_ERROR, STATUS_RATE_LIMITED)
        or http_status == 503
    )


cdef int64_t retry_wait(Exchange* x) noexcept nogil:
    """Retry-After, else half a second doubled with each attempt."""
    if x.retry_after_s:
        return <int64_t>x.retry_after_s * 1000000000
    return <int64_t>RETRY_FIRST_NS << (x.row.attempt if x.row.attempt < 6 else 6)


cdef bint next_turn(Core* k, Exchange* x, const PlanRow* plan, int status, int64_t end) noexcept nogil:
    """Keeps the answer for the turns that quote it and makes the next one due after its think time."""
    cdef const PlanRow* next = pacer_next_turn(&k.pacer, plan, x.plan_segment)
    cdef Session* session
    cdef Slot slot
    if next == NULL or k.stopped or status != STATUS_OK:
        # without this answer there is nothing to go on from: the turns that are left are never sent
        session_close(&k.sessions, plan.session)
        return False
    session = session_open(&k.sessions, plan.session)
    if session == NULL or not session_keep(session, plan.turn, x.text, x.text_size):
        return False
    x.text = NULL                # the session's now
    session.target = x.row.target
    session.bound = True
    memset(&slot, 0, sizeof(slot))
    slot.row = next
    slot.segment = x.plan_segment
    slot.due = slot.promised = end + next.think
    return pacer_push(&k.pacer, &slot)


cdef bint own_time(const Exchange* x) noexcept nogil:
    """A turn that no end makes due, nor that makes one due: a trace's."""
    return (<const PlanRow*>x.plan).due >= 0 and not x.capture


cdef bint flight_waits(Core* k, const Due* due) noexcept nogil:
    """A trace's turn whose time has come before the end of the answer it follows: laid aside, it becomes due then."""
    cdef const PlanRow* plan = due.row
    cdef Session* session
    cdef Turn* turn
    if plan.after == 0:
        return False
    session = session_open(&k.sessions, plan.session)
    # known already: it has waited, or this is a further attempt
    if session == NULL or session_turn(session, plan.index) != NULL:
        return False
    turn = session_begin(session, plan.index)
    if turn == NULL or plan.after == ROOT or session_turn(session, plan.index - (plan.after - ROOT)) == NULL:
        return False
    turn.parent = plan.index - (plan.after - ROOT)
    turn.due = due.due
    turn.row = plan
    turn.segment = due.segment
    k.open_turns += 1
    return True


cdef void release_turns(Core* k, const PlanRow* plan, int64_t end) noexcept nogil:
    """A trace's turn is over, well or not: what waited for it is due, at its own time if that has just come."""
    cdef Session* session = session_find(&k.sessions, plan.session)
    cdef Turn* turn
    cdef Slot slot
    if session == NULL:
        return
    session_end(session, plan.index)
    turn = session.turns
    while turn != NULL:
        if turn.parent == plan.index:
            turn.parent = -1
            k.open_turns -= 1
            memset(&slot, 0, sizeof(slot))
            slot.row = <const PlanRow*>turn.row
            slot.segment = turn.segment
            slot.due = slot.promised = end if end > turn.due else turn.due
            pacer_push(&k.pacer, &slot)
            pacer_release(&k.pacer, turn.segment)        # the heap holds it now
        turn = turn.next
    if session.turns == NULL and k.target_count == 1:
        session_close(&k.sessions, plan.session)         # with several targets the one it keeps to must be known


cdef uint16_t flight_session_target(Core* k, Exchange* x, uint16_t planned) noexcept nogil:
    """The target of the session's earlier turns, where prefix caches know it; the planned or a chosen one for others."""
    cdef const PlanRow* plan = <const PlanRow*>x.plan
    cdef Session* session
    cdef uint16_t chosen
    if not k.options.sticky or plan.session < 0 or k.target_count == 1:
        return choose_target(k, planned)
    session = session_find(&k.sessions, plan.session)
    if session != NULL and session.bound:
        return session.target
    chosen = choose_target(k, planned)
    if own_time(x):
        session = session_open(&k.sessions, plan.session)
        if session != NULL:
            session.target = chosen
            session.bound = True
    return chosen


cdef void keep_sample(Core* k, Exchange* x, int status) noexcept with gil:
    """Rare: text of a failed request for errors.jsonl."""
    cdef bytes text = b""
    if x.kept_size:
        text = x.kept[:x.kept_size]
    elif k.reason != NULL:
        text = k.reason
    (<object>k.engine).samples.append((status, x.row.http_status, x.row.index, x.row.target, text))


cdef void keep_body(Core* k, Exchange* x) noexcept with gil:
    """With --keep-bodies only: the raw answer, for the worker to write down."""
    (<object>k.engine).bodies.append((x.row.index, x.row.http_status, x.body[:x.body_size] if x.body_size else b""))


# -- timeouts -----------------------------------------------------------------------------------------------------------

cdef void wheel_insert(Core* k, Exchange* x, int64_t when) noexcept nogil:
    cdef int64_t tick = (when >> WHEEL_SHIFT) + 1
    cdef Exchange** slot
    if tick <= k.wheel_tick:
        tick = k.wheel_tick + 1
    if tick >= k.wheel_tick + WHEEL_SLOTS:
        tick = k.wheel_tick + WHEEL_SLOTS - 1
    slot = &k.wheel[tick % WHEEL_SLOTS]
    x.wheel_before = NULL
    x.wheel_next = slot[0]
    x.wheel_slot = <uint32_t>(tick % WHEEL_SLOTS)
    if slot[0] != NULL:
        slot[0].wheel_before = x
    slot[0] = x


cdef void wheel_remove(Core* k, Exchange* x) noexcept nogil:
    if x.wheel_before != NULL:
        x.wheel_before.wheel_next = x.wheel_next
    elif k.wheel[x.wheel_slot] == x:
        k.wheel[x.wheel_slot] = x.wheel_next
    if x.wheel_next != NULL:
        x.wheel_next.wheel_before = x.wheel_before
    x.wheel_next = x.wheel_before = NULL


cdef int64_t deadline(Core* k, Exchange* x, int* status) noexcept nogil:
    """When the exchange expires if nothing more happens, and as what."""
    cdef RequestRow* row = x.row
    cdef int64_t when = row.due + k.options.timeout_total
    cdef int64_t other
    status[0] = STATUS_TOTAL_TIMEOUT
    if k.options.patience and x.expect.stream and row.first_token < 0 and x.mode != MODE_ERROR:
        # whoever asked does not see whether it is sent yet
        other = row.due + k.options.patience
        if other < when:
            when = other
            status[0] = STATUS_ABANDONED
    if x.state < EXCHANGE_SENDING or row.send < 0:
        return when
    if x.expect.stream and row.first_token < 0 and x.mode != MODE_ERROR:
        other = row.send + k.options.timeout_first_token
        if other < when:
            when = other
            status[0] = STATUS_FIRST_TOKEN_TIMEOUT
    if x.mode != MODE_UNKNOWN and (row.first_event >= 0 or not x.expect.stream or x.mode == MODE_ERROR):
        other = x.active + k.options.timeout_idle
        if other < when:
            when = other
            status[0] = STATUS_IDLE_TIMEOUT
    return when


cdef int64_t next_look(Core* k, int64_t when, int64_t now) noexcept nogil:
    """`when`, or the earliest time at which what may happen from now on (it is sent, an event comes) can have expired."""
    cdef int64_t shortest = k.options.timeout_first_token
    if k.options.timeout_idle < shortest:
        shortest = k.options.timeout_idle
    return when if when - now < shortest else now + shortest


cdef void flight_deadline(Core* k, Exchange* x, int64_t now) noexcept nogil:
    cdef int status
    wheel_insert(k, x, next_look(k, deadline(k, x, &status), now))


cdef Exchange* flight_expired(Core* k, int64_t now, int* status) noexcept nogil:
    """The next exchange that has expired by `now`; NULL when there is none left. Advances the wheel."""
    cdef int64_t until = now >> WHEEL_SHIFT
    cdef Exchange* x
    cdef int64_t when
    while k.wheel_tick <= until:
        x = k.wheel[k.wheel_tick % WHEEL_SLOTS]
        while x != NULL:
            wheel_remove(k, x)
            when = deadline(k, x, status)
            if when <= now:
                wheel_insert(k, x, now)      # flight_finish takes it out again
                return x
            # its slot may be this one if the deadline lies a whole turn ahead: insert beyond the current tick
            wheel_insert(k, x, next_look(k, when, now))
            x = k.wheel[k.wheel_tick % WHEEL_SLOTS]
        if k.wheel_tick == until:
            return NULL
        k.wheel_tick += 1
    return NULL


cdef Exchange* flight_any(Core* k) noexcept nogil:
    """Some exchange that is in flight, for the end of the run; NULL if there is none."""
    cdef int i
    for i in range(WHEEL_SLOTS):
        if k.wheel[i] != NULL:
            return k.wheel[i]
    return NULL
