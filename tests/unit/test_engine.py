"""The native core, driven turn by turn against servers in this process."""

from __future__ import annotations

import resource
import socket
import threading
import time

import numpy as np
import pytest

from driving import BODY, MS, Driven, Plan, S, committed
from llmgen.columns import EventFlag, Flag, Kind, Status, WorkerState
from llmgen.control import ControlBlock
from llmgen.plan import DYNAMIC
from odd_servers import (
    DONE,
    END,
    FINISH,
    GOOD,
    STREAM_HEAD,
    OddServer,
    Peer,
    Request,
    always,
    answering,
    chunk,
    stream,
    token,
)


def numbered(peer: Peer, request: Request) -> None:
    """An answer that only this request can get: 1 + its index tokens."""
    peer.send(stream(*[token()] * (1 + request.index), FINISH, DONE))


def check_numbered(rows: np.ndarray) -> None:
    assert set(rows["status"].tolist()) == {Status.ok}
    np.testing.assert_array_equal(rows["token_events"], 1 + rows["index"])


# -- pacing ------------------------------------------------------------------------------------------------------------


def test_nothing_is_sent_before_it_is_due(tmp_path):
    due = [0, 3 * MS, 3 * MS, 40 * MS]
    with OddServer(always(GOOD)) as server, Driven(tmp_path, server.url, due) as driven:
        start = driven.start(20 * MS)
        rows = driven.run()
        assert [post.body for post in server.posts] == [BODY] * 4
    np.testing.assert_array_equal(rows["due"], start + np.array(due))
    np.testing.assert_array_equal(rows["index"], np.arange(4))
    assert (rows["dispatch"] >= rows["due"]).all()
    assert (rows["send"] >= rows["acquired"]).all()


def test_a_late_client_catches_up_in_order_and_keeps_the_due_times(tmp_path):
    due = [i * MS for i in range(200)]
    with OddServer(always(GOOD)) as server, Driven(tmp_path, server.url, due) as driven:
        start = driven.start(-1 * S)
        rows = driven.run()
    np.testing.assert_array_equal(rows["due"], start + np.array(due))
    np.testing.assert_array_equal(rows["index"], np.arange(200))
    assert (np.diff(rows["dispatch"]) >= 0).all()
    assert (rows["dispatch"] - rows["due"] >= 800 * MS).all()  # the lateness is told
    assert driven.counters["lag_max_ns"][0] >= 1 * S


def test_segments_that_come_later(tmp_path):
    """The plan is written ahead of the clock; a worker that reaches its end waits for more."""
    plan = Plan(tmp_path / "plan")
    plan.write([0, 0])
    with OddServer(answering(numbered)) as server, Driven(tmp_path, server.url, plan=plan, final=False) as driven:
        driven.start()
        driven.until(lambda: driven.counters["ended"][0] == 2)
        assert driven.turn()  # goes on: the plan is not final
        driven.control["plan_segments"] = plan.write([])
        driven.control["plan_segments"] = plan.write([0, 10 * MS, 20 * MS])
        driven.until(lambda: driven.counters["ended"][0] == 5)
        assert driven.turn()
        driven.control["plan_final"] = 1
        rows = driven.run()
    check_numbered(rows)
    assert rows["index"].tolist() == [0, 1, 2, 3, 4]


def test_a_plan_whose_file_is_missing_is_an_error(tmp_path):
    plan = Plan(tmp_path / "plan")
    plan.write([0])
    with OddServer(always(GOOD)) as server, Driven(tmp_path, server.url, plan=plan, final=False) as driven:
        driven.control["plan_segments"] = 2
        driven.start()
        with pytest.raises(OSError, match="the plan"):
            driven.until(lambda: False)


def test_a_plan_that_is_not_there(tmp_path):
    plan = Plan(tmp_path / "plan")
    (tmp_path / "plan" / "static.bin").unlink()
    with pytest.raises(OSError, match="plan"):
        Driven(tmp_path, "http://127.0.0.1:1", plan=plan)


def test_workers_take_their_own_rows(tmp_path):
    plan = Plan(tmp_path / "plan", workers=2)
    plan.write([i * MS for i in range(10)])
    control = ControlBlock(tmp_path / "control.bin", 2)
    with OddServer(answering(numbered)) as server:
        for number in (0, 1):
            with Driven(tmp_path, server.url, plan=plan, control=control, worker=number) as driven:
                driven.start()
                rows = driven.run()
            assert rows["index"].tolist() == list(range(number, 10, 2))
            assert set(rows["worker"].tolist()) == {number}
            check_numbered(rows)


def test_workers_of_a_closed_loop_share_the_indices(tmp_path):
    plan = Plan(tmp_path / "plan", workers=2)
    plan.write([DYNAMIC] * 7)
    plan.write([DYNAMIC] * 23)
    control = ControlBlock(tmp_path / "control.bin", 2)
    with (
        OddServer(answering(numbered)) as server,
        Driven(tmp_path, server.url, plan=plan, control=control, closed_slots=2) as one,
        Driven(tmp_path, server.url, plan=plan, control=control, worker=1, closed_slots=1) as other,
    ):
        starts = [one.start(), other.start()]
        going = [True, True]
        end = time.monotonic() + 30
        while any(going):
            going = [driven.turn(1) for driven in (one, other)]
            assert time.monotonic() < end
        both = []
        for driven, start in zip((one, other), starts, strict=True):
            driven.engine.finish()
            rows = driven.rows("requests")
            check_numbered(rows)
            # due: the start for the first of each slot, else the end of the one before
            free = [start] * driven.setup.closed_slots + sorted(rows["end"].tolist())
            np.testing.assert_array_equal(np.sort(rows["due"]), free[: len(rows)])
            both += rows["index"].tolist()
    assert sorted(both) == list(range(30))


def test_the_end_of_the_offer(tmp_path):
    due = [i * 10 * MS for i in range(100)]
    with OddServer(always(GOOD)) as server, Driven(tmp_path, server.url, due) as driven:
        driven.start(offer_for=50 * MS)
        rows = driven.run()
    assert rows["index"].tolist() == [0, 1, 2, 3, 4]  # what is due at its end is not offered any more


def test_stop_and_drain(tmp_path):
    gate = threading.Event()

    def answer(peer: Peer, request: Request) -> None:
        if request.index == 0:
            peer.send(STREAM_HEAD + chunk(token()))
            gate.wait(20)
        else:
            peer.send(GOOD)

    with OddServer(answering(answer)) as server:
        with Driven(tmp_path, server.url, [0, 0, 3600 * S]) as driven:
            driven.start()
            driven.until(lambda: driven.counters["ended"][0] == 1)
            driven.control["stop"] = 1
            driven.until(lambda: driven.counters["state"][0] == WorkerState.draining)
            driven.engine.drain(time.monotonic_ns() + 50 * MS)
            rows = driven.run()
            assert driven.counters["state"][0] == WorkerState.finished
        gate.set()
    assert {int(r["index"]): Status(int(r["status"])) for r in rows} == {0: Status.cancelled, 1: Status.ok}
    assert rows["first_token"][0] > 0


# -- connections -------------------------------------------------------------------------------------------------------


def test_idle_connections_are_used_last_in_first_out(tmp_path):
    """Three at once open three connections; what follows one at a time uses the one that became idle last."""
    with (
        OddServer(answering(numbered)) as server,
        Driven(tmp_path, server.url, [0, 0, 0, 60 * MS, 90 * MS, 120 * MS]) as driven,
    ):
        driven.start()
        driven.until(lambda: driven.counters["ended"][0] == 3)
        assert driven.counters["connections"][0] == 3
        rows = driven.run()
        assert server.accepted == 3
    check_numbered(rows)
    last = rows[np.argmax(rows["end"][:3])]["connection"]
    assert rows["connection"][3:].tolist() == [last] * 3
    assert (rows["flags"][3:] & Flag.reused != 0).all()
    assert (rows["acquired"] >= rows["dispatch"]).all()
    assert (rows["connect_start"][3:] == -1).all()


def test_a_connection_that_the_server_closed_is_not_used(tmp_path):
    def one_answer(peer: Peer) -> None:
        if (request := peer.request()) is not None:
            numbered(peer, request)

    with OddServer(one_answer) as server, Driven(tmp_path, server.url, [0, 100 * MS, 200 * MS]) as driven:
        driven.start()
        driven.until(lambda: driven.counters["ended"][0] == 1)
        driven.until(lambda: driven.counters["connections"][0] == 0)  # the EOF was seen
        rows = driven.run()
    check_numbered(rows)
    assert not (rows["flags"] & (Flag.reused | Flag.stale_resend)).any()
    assert driven.counters["stale_resends"][0] == 0


def test_a_stale_connection_gets_one_resend_and_no_second(tmp_path):
    """The reused connection dies without a byte: once more on a fresh one. That one dies, too: the request failed."""

    def handle(peer: Peer) -> None:
        for number in range(2):
            request = peer.request()
            if request is None or number or peer.number:
                return
            numbered(peer, request)

    with OddServer(handle) as server, Driven(tmp_path, server.url, [0, 50 * MS]) as driven:
        driven.start()
        rows = driven.run()
        assert [post.index for post in server.posts] == [0, 1, 1]
    assert Status(int(rows["status"][0])) is Status.ok
    assert Status(int(rows["status"][1])) in (Status.eof, Status.reset)
    assert rows["flags"][1] & Flag.stale_resend
    assert not rows["flags"][1] & Flag.reused
    assert driven.counters["stale_resends"][0] == 1


def test_no_resend_after_a_byte_of_the_answer(tmp_path):
    def handle(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.index:
                peer.send(STREAM_HEAD)
                return
            numbered(peer, request)

    with OddServer(handle) as server, Driven(tmp_path, server.url, [0, 50 * MS]) as driven:
        driven.start()
        rows = driven.run()
        assert len(server.posts) == 2
    assert Status(int(rows["status"][1])) is Status.eof
    assert rows["headers"][1] > 0
    assert not rows["flags"][1] & Flag.stale_resend


def test_descriptors_that_are_used_again_within_a_batch(tmp_path):
    """One batch sees the ends of connections, answers on others and what is due, and opens new ones. A number that is
    closed must not be that of a new connection while events of the old one are still to come."""
    wave = 24
    due = [0] * wave + [150 * MS] * wave + [300 * MS] * wave

    def handle(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            numbered(peer, request)
            if request.index % 3 == 0:
                return  # says nothing of it: the client sees the end while it is idle, or when it sends
            if request.index % 3 == 1:
                peer.reset()
                return

    with OddServer(handle) as server, Driven(tmp_path, server.url, due) as driven:
        start = driven.start()
        for after in (120 * MS, 270 * MS):
            driven.until(lambda at=after: time.monotonic_ns() > start + at)
            # now everything piles up: ends, resets and what is due
            while time.monotonic_ns() < start + after + 60 * MS:
                time.sleep(0.005)
        rows = driven.run()
    good = rows[rows["status"] == Status.ok]
    np.testing.assert_array_equal(good["token_events"], 1 + good["index"])
    assert len(good) == len(rows) == 3 * wave
    assert np.unique(rows["index"]).tolist() == list(range(3 * wave))


def test_a_limit_of_connections_keeps_order_and_tells_the_wait(tmp_path):
    with OddServer(answering(numbered)) as server, Driven(tmp_path, server.url, [0] * 12, connections=2) as driven:
        driven.start()
        rows = driven.run()
        assert server.accepted == 2
    check_numbered(rows)
    np.testing.assert_array_equal(np.argsort(rows["acquired"], kind="stable"), np.arange(12))
    assert (np.diff(rows["acquired"][1:]) > 0).sum() >= 9  # one after the other
    assert (rows["acquired"][2:] > rows["dispatch"][2:]).all()


def test_preconnected_ones_are_used(tmp_path):
    with OddServer(answering(numbered)) as server, Driven(tmp_path, server.url, [0] * 3) as driven:
        driven.engine.preconnect(3)
        driven.until(lambda: driven.engine.connecting() == 0)
        driven.start()
        rows = driven.run()
        assert server.accepted == 3
    check_numbered(rows)
    assert (rows["connect_start"] == -1).all()
    assert not (rows["flags"] & Flag.reused).any()


def test_a_refused_connection(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening
        with Driven(tmp_path, f"http://127.0.0.1:{taken.getsockname()[1]}", [0] * 5) as driven:
            driven.start()
            rows = driven.run()
            samples = driven.engine.samples
    assert [Status(int(s)) for s in rows["status"]] == [Status.connect_refused] * 5
    assert (rows["send"] == -1).all()
    assert (rows["connect_start"] > 0).all()
    assert samples[0][0] == Status.connect_refused
    assert samples[0][4] == b"connection refused"


def test_connections_leave_descriptors_for_the_plan_and_the_records(tmp_path, monkeypatch):
    """A worker that had none left for the plan's next segment ended; now only its requests do."""
    before = open("/dev/null")  # noqa: SIM115  # the lowest descriptor that is free
    lowest = before.fileno()
    before.close()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (lowest + 16 + 12, 1 << 16))
    with (
        OddServer(answering(lambda peer, request: peer.until_closed())) as server,
        Driven(tmp_path, server.url, [0] * 30, timeout_total=S // 2) as driven,
    ):
        driven.start()
        rows = driven.run()
        samples = driven.engine.samples
    told = [Status(int(s)).name for s in rows["status"]]
    assert set(told) == {"client_limit", "total_timeout"}
    assert 0 < told.count("total_timeout") < 12
    assert b"ulimit -n" in samples[0][4]


def test_a_connect_that_is_never_answered_times_out(tmp_path):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = deaf.getsockname()
        fillers = []
        for _ in range(8):  # a backlog of 0 takes one or two; of the others the SYN is dropped
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        with Driven(tmp_path, f"http://127.0.0.1:{address[1]}", [0] * 3, timeout_connect=200 * MS) as driven:
            driven.start()
            rows = driven.run()
        for filler in fillers:
            filler.close()
    assert [Status(int(s)) for s in rows["status"]] == [Status.connect_timeout] * 3
    assert (rows["end"] - rows["connect_start"] >= 200 * MS).all()


# -- answers -----------------------------------------------------------------------------------------------------------


def read_events(driven: Driven) -> np.ndarray:
    return driven.rows("events")


def test_stamps_are_the_kernels_and_bracket_what_the_server_did(tmp_path):
    times: list[int] = []

    def answer(peer: Peer, _: Request) -> None:
        times.append(time.monotonic_ns())
        peer.send(STREAM_HEAD + chunk(token()))
        time.sleep(0.02)
        peer.send(chunk(token()) + chunk(FINISH + DONE) + END)
        times.append(time.monotonic_ns())

    with OddServer(answering(answer)) as server, Driven(tmp_path, server.url) as driven:
        driven.start()
        (row,) = driven.run()
        events = read_events(driven)
    assert row["status"] == Status.ok
    assert not row["flags"] & Flag.user_stamped
    assert row["due"] <= row["dispatch"] <= row["acquired"] <= row["connect_start"] <= row["connected"] <= row["send"]
    assert row["send"] <= row["sent"] <= times[0] + 2 * MS  # the clocks' conversion is good to microseconds
    assert times[0] - 2 * MS <= row["headers"] == row["first_event"] == row["first_token"]
    assert row["first_token"] <= row["first_token_user"]
    assert row["last_token"] - row["first_token"] >= 19 * MS
    assert row["last_token"] <= row["end"] <= times[1] + 2 * MS
    assert row["max_gap"] == row["last_token"] - row["first_token"]
    assert not (events["flags"] & EventFlag.user_stamped).any()
    assert row["reads"] == 2


def test_user_stamps_are_flagged(tmp_path):
    with OddServer(always(GOOD)) as server, Driven(tmp_path, server.url, kernel_stamps=False) as driven:
        driven.start()
        (row,) = driven.run()
        events = read_events(driven)
    assert row["flags"] & Flag.user_stamped
    assert row["first_token"] == row["first_token_user"]
    assert (events["flags"] & EventFlag.user_stamped != 0).all()


def test_three_events_in_one_write_have_one_time(tmp_path):
    """docs/metrics.md, chunk gap and ITL: two gaps, of 3 and 1 tokens."""

    def answer(peer: Peer, _: Request) -> None:
        peer.send(STREAM_HEAD + chunk(token("1")))
        time.sleep(0.03)
        peer.send(chunk(token("2") + token("3")) + chunk(token("4")))
        time.sleep(0.06)
        peer.send(chunk(token("5") + FINISH + DONE) + END)

    with OddServer(answering(answer)) as server, Driven(tmp_path, server.url) as driven:
        driven.start()
        (row,) = driven.run()
        events = read_events(driven)
    tokens = events[events["kind"] & Kind.text != 0]
    assert len(np.unique(tokens["t"])) == 3
    assert tokens["t"][1] == tokens["t"][2] == tokens["t"][3]
    assert [bool(flags & EventFlag.coalesced) for flags in tokens["flags"]] == [False, True, True, False, True]
    assert row["max_gap"] == tokens["t"][4] - tokens["t"][3]
    assert row["reads"] == 3
    assert row["coalesced_events"] == 3  # 2 and 3, and 5 with the finish event after it
    assert not row["flags"] & Flag.coalesced_first


def test_a_first_token_that_is_not_alone(tmp_path):
    with OddServer(always(GOOD)) as server, Driven(tmp_path, server.url) as driven:
        driven.start()
        (row,) = driven.run()
    assert row["flags"] & Flag.coalesced_first
    assert row["max_gap"] == -1


def test_an_answer_byte_by_byte_is_the_same(tmp_path):
    def bytewise(peer: Peer, _: Request) -> None:
        for at in range(len(GOOD)):
            peer.send(GOOD[at : at + 1])

    found = []
    for number, handler in enumerate((always(GOOD), answering(bytewise))):
        with OddServer(handler) as server, Driven(tmp_path / str(number), server.url) as driven:
            driven.start()
            (row,) = driven.run()
            found.append((row, read_events(driven)))
    (one, events), (other, others) = found
    for name in (
        "status",
        "http_status",
        "events",
        "token_events",
        "output_tokens",
        "input_tokens",
        "bytes_in",
        "finish_reason",
    ):
        assert one[name] == other[name], name
    np.testing.assert_array_equal(events["kind"], others["kind"])
    np.testing.assert_array_equal(events["tokens"], others["tokens"])


def test_more_than_a_read_buffer_at_once(tmp_path):
    """Events of one answer over many reads, segments of the record file and minutes of nothing else."""
    count = 300_000
    event = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    piece = chunk(event * 1000)

    def answer(peer: Peer, _: Request) -> None:
        peer.send(STREAM_HEAD)
        for _ in range(count // 1000):
            peer.send(piece)
        peer.send(chunk(FINISH + DONE) + END)

    with OddServer(answering(answer)) as server, Driven(tmp_path, server.url) as driven:
        driven.start()
        (row,) = driven.run()
        events = read_events(driven)
    assert row["status"] == Status.ok
    assert row["token_events"] == row["output_tokens"] == count
    assert row["events"] == len(events) == count + 1
    assert len(list((tmp_path / "worker-0").glob("events-*.seg"))) == 2
    assert (np.diff(events["t"]) >= 0).all()
    assert (events["request"] == 0).all()
    assert driven.engine.recorder.events_dropped == 0


def test_level_requests_writes_no_events(tmp_path):
    with OddServer(always(GOOD)) as server, Driven(tmp_path, server.url, record_events=False) as driven:
        driven.start()
        (row,) = driven.run()
    assert row["events"] == 5
    assert not list((tmp_path / "worker-0").glob("events-*"))


# -- timeouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "settings", "status", "since"),
    [
        (b"", {"timeout_first_token": 150 * MS}, Status.first_token_timeout, "send"),
        (STREAM_HEAD, {"timeout_first_token": 150 * MS}, Status.first_token_timeout, "send"),
        (STREAM_HEAD + chunk(b": ping\n\n"), {"timeout_first_token": 150 * MS}, Status.first_token_timeout, "send"),
        (STREAM_HEAD + chunk(token()), {"timeout_idle": 150 * MS}, Status.idle_timeout, "first_token"),
        (STREAM_HEAD + chunk(token()), {"timeout_total": 150 * MS}, Status.total_timeout, "due"),
        (b"", {"timeout_total": 150 * MS}, Status.total_timeout, "due"),
        (b"HTTP/1.1 500 Oops\r\ncontent-length: 9\r\n\r\n", {"timeout_idle": 150 * MS}, Status.idle_timeout, "send"),
    ],
)
def test_each_timeout(tmp_path, sent, settings, status, since):
    def answer(peer: Peer, _: Request) -> None:
        peer.send(sent)
        peer.until_closed()

    with OddServer(answering(answer)) as server, Driven(tmp_path, server.url, [0, 0], **settings) as driven:
        driven.start()
        rows = driven.run()
    assert [Status(int(s)) for s in rows["status"]] == [status] * 2
    waited = rows["end"] - rows[since]
    assert (waited >= 150 * MS).all()
    assert (waited < 5 * S).all()  # no measure of speed: the other timeouts are 10 s and more


def test_a_short_timeout_after_a_long_wait(tmp_path):
    """The idle timeout counts from the last byte although the first token took several times as long."""

    def answer(peer: Peer, _: Request) -> None:
        time.sleep(0.5)
        peer.send(STREAM_HEAD + chunk(token()))
        peer.until_closed()

    with OddServer(answering(answer)) as server, Driven(tmp_path, server.url, timeout_idle=100 * MS) as driven:
        driven.start()
        (row,) = driven.run()
    assert Status(int(row["status"])) is Status.idle_timeout
    assert 100 * MS <= row["end"] - row["first_token"] < 5 * S


def test_waiting_for_a_connection_ends_with_the_total_timeout(tmp_path):
    with (
        OddServer(answering(lambda peer, _: peer.until_closed())) as server,
        Driven(tmp_path, server.url, [0, 0, 0], connections=1, timeout_total=200 * MS) as driven,
    ):
        driven.start()
        rows = driven.run()
        assert len(server.posts) == 1
    assert [Status(int(s)) for s in rows["status"]] == [Status.total_timeout] * 3
    assert (rows["send"][1:] == -1).all()


# -- records -----------------------------------------------------------------------------------------------------------


def test_rows_are_on_disk_while_requests_are_under_way(tmp_path):
    with (
        OddServer(answering(lambda peer, _: peer.until_closed())) as server,
        Driven(tmp_path, server.url, [0, 0]) as driven,
    ):
        driven.start()
        driven.until(lambda: len(server.posts) == 2)
        rows = committed(tmp_path / "worker-0", "requests")
        assert [Status(int(s)) for s in rows["status"]] == [Status.in_flight] * 2
        assert (rows["send"] > 0).all()
        driven.engine.cancel()
        rows = driven.run()
        assert [Status(int(s)) for s in rows["status"]] == [Status.cancelled] * 2


def test_more_requests_than_a_segment_holds(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with Driven(tmp_path, f"http://127.0.0.1:{taken.getsockname()[1]}", [0] * 20_000) as driven:
            driven.start()
            rows = driven.run()
    assert len(list((tmp_path / "worker-0").glob("requests-*.seg"))) == 2
    np.testing.assert_array_equal(rows["index"], np.arange(20_000))
    assert set(rows["status"].tolist()) == {Status.connect_refused}
    assert driven.counters["by_status"][0][Status.connect_refused] == 20_000


def test_the_timeline_adds_up(tmp_path):
    due = [i * 20 * MS for i in range(70)]
    with OddServer(always(GOOD)) as server, Driven(tmp_path, server.url, due) as driven:
        driven.start()
        driven.run()
        timeline = driven.rows("timeline")
    assert timeline["second"].tolist() == [0, 1]
    assert timeline["offered"].sum() == timeline["sent"].sum() == timeline["ended"].sum() == 70
    assert timeline["first_tokens"].sum() == 70
    assert timeline["tokens"].sum() == 210
    assert timeline["bytes_in"].sum() == 70 * driven.rows("requests")["bytes_in"][0]


def test_an_engine_can_be_released_twice_and_at_any_time(tmp_path):
    with OddServer(always(GOOD)) as server:
        driven = Driven(tmp_path, server.url, [0, 3600 * S])
        driven.start()
        driven.until(lambda: driven.counters["ended"][0] == 1)
        driven.engine.cancel()
        driven.engine.release()
        driven.engine.release()
        driven.engine.finish()
