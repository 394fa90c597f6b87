"""Bursts of a load that is on and off, or high and low, in turn: a Poisson process whose rate two states modulate.

The two-state Markov-modulated Poisson process (Fischer and Meier-Hellstern, Performance Evaluation 18, 1993): the time
in each state is exponential, the rate in it constant, here multiplied by the load's own rate. Unlike a renewal process
its bursts last: counts stay overdispersed over times far longer than a gap. The factors of the two states are such that
their mean over time is 1, so the load's rate is what is offered on the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llmgen.draws import DRAW_BLOCK, draw, uniforms
from llmgen.rates import RateCurve

Floats = NDArray[np.float64]

STATES: Final = 2


@dataclass(frozen=True)
class Bursts:
    """Mean times in the high and in the low state (s), and the rate of the high one over that of the low one."""

    high_s: float
    low_s: float
    ratio: float  # inf: the low state is silence

    @property
    def factors(self) -> tuple[float, float]:
        """What the rate is multiplied by in the high and in the low state."""
        total = self.high_s + self.low_s
        if np.isinf(self.ratio):
            return total / self.high_s, 0.0
        low = total / (self.ratio * self.high_s + self.low_s)
        return self.ratio * low, low


class Modulation:
    """Maps the points of a unit process to the area below a rate curve, through the states as they were drawn."""

    def __init__(self, bursts: Bursts, curve: RateCurve, seed: int) -> None:
        self._bursts, self._curve, self._seed = bursts, curve, seed
        share = bursts.high_s / (bursts.high_s + bursts.low_s)
        # The first state is that in which a time chosen at random lies: the process has no beginning.
        self._first = 0 if uniforms(seed, "burst state", 0, 1)[0] < share else 1
        self._drawn = 0  # state times drawn so far
        self._start_s = 0.0  # of the states that are not drawn yet
        self._areas: Floats = np.zeros(1)  # below the curve, up to each change of state
        self._points: Floats = np.zeros(1)  # of the modulated process, expected up to each change of state
        self._factors: Floats = np.empty(0)

    def areas(self, y: Floats) -> Floats:
        """Area below the curve at which the modulated process has had y expected points, ascending like y.

        Beyond the curve's own area, which `RateCurve.invert` takes as never, where it does not come to so many.
        """
        while self._points[-1] <= y[-1] and self._start_s <= self._curve.span_s:
            self._extend()
        piece = np.minimum(np.searchsorted(self._points, y, side="right") - 1, len(self._factors) - 1)
        rest, factor = y - self._points[piece], self._factors[piece]
        # No point lies inside a silent state: there `rest` is 0 or the curve has ended.
        found = self._areas[piece] + np.divide(rest, factor, out=np.zeros_like(rest), where=factor > 0.0)
        found[y >= self._points[-1]] = np.inf
        self._forget(float(y[-1]))
        return np.asarray(found)

    def _extend(self) -> None:
        number = self._drawn + np.arange(DRAW_BLOCK)
        state = (number + self._first) % STATES
        holding = draw(self._seed, "burst times", self._drawn, DRAW_BLOCK, lambda g, n: g.standard_exponential(n))
        ends = self._start_s + np.cumsum(holding * np.where(state == 0, self._bursts.high_s, self._bursts.low_s))
        areas = self._curve.integrals(ends)
        factors = np.array(self._bursts.factors)[state]
        points = self._points[-1] + np.cumsum(np.diff(areas, prepend=self._areas[-1]) * factors)
        self._areas = np.concatenate([self._areas, areas])
        self._points = np.concatenate([self._points, points])
        self._factors = np.concatenate([self._factors, factors])
        self._drawn += DRAW_BLOCK
        self._start_s = float(ends[-1])

    def _forget(self, y: float) -> None:
        """Lets go of states that lie behind, so that an endless schedule needs no more memory than a short one."""
        done = int(np.searchsorted(self._points, y, side="right")) - 1
        if done > DRAW_BLOCK:
            self._areas, self._points, self._factors = self._areas[done:], self._points[done:], self._factors[done:]
