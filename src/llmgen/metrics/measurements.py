"""What a run's records say, request by request and gap by gap, computed once and cut by whoever asks.

The window is chosen by due time: warm-up and cool-down are cut, and load goes on until the window's requests have
ended, timed out or the drain is over. Unfinished members are censored and count as misses. Choosing by completion
would be length-biased: long answers would drop out at the end. Tokens count where they arrived: throughput is what
arrived inside the window, whoever was due when. In flight: sent and not ended, over time.

Summary and report both read a run through `Measurements`: metrics of definitions.py as arrays over all requests, gaps
pooled over the window, and, at level `requests`, the histograms in the events' place.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final, NamedTuple

import numpy as np

from llmgen.columns import HISTOGRAM_BUCKETS, Histogram
from llmgen.metrics import definitions
from llmgen.metrics.definitions import Gaps, Requests
from llmgen.metrics.slo import Slo, meets, parse_all
from llmgen.metrics.statistics import Blocks, Sampling, bucket_middles_ns
from llmgen.records import Run

ENDLESS_NS: Final = 10 * 365 * 86_400 * 10**9  # a window that long stands for "until the end"


class Pool(NamedTuple):
    """Values (ns) of a token metric; weights: counts, None for 1 each; rows: their requests, None from histograms."""

    values: np.ndarray
    weights: np.ndarray | None
    rows: np.ndarray | None


class _EventPass(NamedTuple):
    gaps: Gaps  # of requests in the window
    arrived: tuple[np.ndarray, np.ndarray]  # tokens by request: all, and those inside the window
    events_inside: int
    all_tokens: bool  # every event is a token event of a request that is there


class Measurements:
    """A run's metrics. Times are absolute ns of the run's clock unless a name says otherwise."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.requests = Requests(run.requests)
        self.start_ns, self.window = _window(run, self.requests)
        due = self.requests["due"]
        self.everyone = np.ones(self.count, bool)
        self.inside = (due >= self.window[0]) & (due < self.window[1])
        self._values: dict[str, np.ndarray] = {}

    @property
    def count(self) -> int:
        return len(self.requests)

    @cached_property
    def ok(self) -> np.ndarray:
        return definitions.succeeded(self.requests)

    @cached_property
    def span(self) -> tuple[int, int]:
        """The window as rates use it.

        Where it has no length or no end (all due at once) or the run ended before it: from its start to the last stamp.
        """
        start, end = self.window
        stopped = self.run.info.get("end_ns")
        unfinished = self.run.state != "complete" and (stopped is None or stopped < end)
        if end - start > 1 and end - start < ENDLESS_NS and not unfinished:
            return start, end
        return start, max(int(self.requests["end"].max(initial=0)), start) + 1

    @property
    def duration_s(self) -> float:
        return (self.span[1] - self.span[0]) / 1e9

    def value(self, metric: str) -> np.ndarray:
        """A metric of REQUEST_METRICS, or `itl` and `chunk_gap` as a limit on a request sees them; ns, NaN."""
        if metric not in self._values:
            self._values[metric] = self._compute(metric)
        return self._values[metric]

    def _compute(self, metric: str) -> np.ndarray:
        if metric == "chunk_gap":
            return definitions.stall(self.requests)  # every gap keeps the limit if the largest does
        if metric == "itl":
            if self.events is None:
                return definitions.tpot(self.requests)
            return definitions.mean_itl(self.events.gaps, self.count)
        return definitions.REQUEST_METRICS[metric](self.requests)

    @cached_property
    def class_names(self) -> list[str]:
        return [str(klass["name"]) for klass in self.run.info.get("classes") or ()] or ["default"]

    @cached_property
    def slos(self) -> list[Slo]:
        """Objectives of the run, and then those that its classes have of their own."""
        classes = {str(klass["name"]): klass.get("slo") or () for klass in self.run.info.get("classes") or ()}
        return parse_all(self._run_wide, classes)

    @property
    def _run_wide(self) -> list[str]:
        return list((self.run.info.get("config") or {}).get("slo") or ())

    @property
    def run_slos(self) -> list[Slo]:
        return self.slos[: len(self._run_wide)]

    @property
    def class_slos(self) -> list[Slo]:
        return self.slos[len(self._run_wide) :]

    def of_class(self, name: str | None) -> np.ndarray:
        """Requests of a class, bool; None: all."""
        if name is None:
            return self.everyone
        of: np.ndarray = self.requests["klass"] == self.class_names.index(name)
        return of

    @cached_property
    def good(self) -> np.ndarray | None:
        """Requests that succeeded and kept every limit of the run and of their class, bool; None without any limit."""
        limits = [slo for slo in self.slos if slo.per_request]
        if not limits:
            return None
        good = meets((slo for slo in limits if slo.klass is None), self.value, self.ok)
        for slo in limits:
            if slo.klass is not None:
                good &= ~self.of_class(slo.klass) | meets([slo], self.value, self.ok)
        return good

    # -- events ---------------------------------------------------------------------------------------------------

    @cached_property
    def events(self) -> _EventPass | None:
        """Everything that needs the events, in one pass; None at level `requests`."""
        events = self.run.events
        if events is None:
            return None
        start, end = self.span
        t, request = np.ascontiguousarray(events["t"]), np.ascontiguousarray(events["request"])
        in_time = (t >= start) & (t < end)
        events_inside = int(np.count_nonzero(in_time))
        token = definitions.is_token_event(np.ascontiguousarray(events["kind"]))
        token &= request < self.count  # a cut requests.npy
        all_tokens = bool(token.all())
        if not all_tokens:
            t, request, in_time = t[token], request[token], in_time[token]
            tokens = events["tokens"][token]
        else:
            tokens = np.ascontiguousarray(events["tokens"])
        total = definitions.tokens_by_request(request, tokens, self.count)
        inside = total
        if events_inside < len(events):
            # what lies outside is less to count, as a rule
            outside = np.flatnonzero(~in_time)
            inside = total - definitions.tokens_by_request(request[outside], tokens[outside], self.count)
        del in_time
        if not self.inside.all():
            wanted = self.inside[request]
            t, request, tokens = t[wanted], request[wanted], tokens[wanted]
        gaps = definitions.chunk_gaps(t, request, tokens, np.maximum(self.requests["send"], 0))
        return _EventPass(gaps, (total, inside), events_inside, all_tokens)

    @cached_property
    def with_gaps(self) -> np.ndarray:
        """Requests of the window with a chunk gap, bool; at level `events` only."""
        assert self.events is not None
        return self.events.gaps.each > 0

    @cached_property
    def tokens_inside(self) -> np.ndarray:
        """Output tokens of each request that arrived in the window, float64."""
        arrived = None if self.events is None else self.events.arrived
        return definitions.tokens_inside(self.requests, self.span, arrived)

    def pool(self, metric: str, mask: np.ndarray, klass: int | None = None) -> Pool | None:
        """`itl` or `chunk_gap` of the window's requests in `mask`; None where the level does not tell.

        klass: the class that `mask` is, None for all: histograms know no other cut.
        """
        if self.events is None:
            whole = klass is not None or bool(mask[self.inside].all())
            counts = self.histogram(Histogram.itl if metric == "itl" else Histogram.gap, klass) if whole else None
            if counts is None or not counts.any():
                return None
            used = np.flatnonzero(counts)
            return Pool(bucket_middles_ns()[used], counts[used], None)
        gaps = self.events.gaps
        if metric == "itl":
            pool = Pool(*definitions.itl(gaps))
        else:
            pool = Pool(gaps.ns, None, gaps.request)
        if mask[self.inside].all() or pool.rows is None:
            return pool
        # both are in order of the requests: repeating by request is several times as fast as asking each gap's
        each = gaps.each if len(pool.rows) == len(gaps.ns) else np.bincount(pool.rows, minlength=self.count)
        here = np.repeat(mask, each)
        rows = np.repeat(np.flatnonzero(mask).astype(np.uint32), each[mask])
        return Pool(pool.values[here], None if pool.weights is None else pool.weights[here], rows)

    def histogram(self, metric: Histogram, klass: int | None = None, *, window: bool = True) -> np.ndarray:
        """Counts int64 (HISTOGRAM_BUCKETS,) of the whole run, or of requests due in the window; of one class or all."""
        rows = self.run.histograms
        wanted = (rows["metric"] == metric) & (rows["bucket"] < HISTOGRAM_BUCKETS)
        if window:
            wanted &= rows["outside"] == 0
        if klass is not None:
            wanted &= rows["klass"] == klass
        rows = rows[wanted]
        return np.bincount(rows["bucket"], rows["count"], HISTOGRAM_BUCKETS).astype(np.int64)

    @cached_property
    def peak_in_flight(self) -> int:
        return definitions.peak_in_flight(self.requests)

    # -- statistics -----------------------------------------------------------------------------------------------

    @cached_property
    def sampling(self) -> Sampling:
        """How intervals are to be made: requests that never overlapped are independent, others share blocks."""
        if self.peak_in_flight <= 1:
            return "independent"
        ended = self.requests["end"][self.inside] - self.requests["send"][self.inside]
        ended = ended[(self.requests["end"][self.inside] >= 0) & (self.requests["send"][self.inside] >= 0)]
        if not len(ended):
            return None
        members = int(np.count_nonzero(self.inside))
        return Blocks.of(members, members * float(np.quantile(ended, 0.99)) / (self.span[1] - self.span[0]))

    @cached_property
    def rank(self) -> np.ndarray:
        """Number of each request among the window's, int64; rows of Blocks."""
        rank: np.ndarray = np.maximum(np.cumsum(self.inside) - 1, 0)
        return rank


def _window(run: Run, requests: Requests) -> tuple[int, tuple[int, int]]:
    """(start, window) in absolute ns; from the due times where run.json does not tell."""
    due = requests["due"]
    due = due[due >= 0]
    first, last = (int(due.min()), int(due.max())) if len(due) else (0, 0)
    start = run.info.get("start_ns")
    start_ns = int(start) if start is not None and start >= 0 else first
    told = run.info.get("window") or {}
    begin, end = told.get("start_ns"), told.get("end_ns")
    # a crashed run that did not come to the end of its warm-up: all of it is what there is
    begin = start_ns if begin is None or (end is None and begin > last) else int(begin)
    return start_ns, (begin, max(last + 1 if end is None else int(end), begin + 1))
