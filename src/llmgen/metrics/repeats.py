"""Repeated runs held against repeated runs: what the single comparisons of a cell's pairs say together.

The run is the unit. Two runs of the same repeat have the same seed, arrivals and bodies; a change is the mean of the
pairs' differences, its interval Student's for that mean. It holds what one run's own interval cannot know: how far two
runs of the same thing are apart.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np

from llmgen.metrics.comparison import (
    MARGIN,
    Change,
    Comparison,
    Rule,
    Side,
    compare,
    default_margin,
    judged,
    rule_notes,
    side_notes,
)
from llmgen.metrics.factors import CONFIDENCE, student_quantile
from llmgen.metrics.slo import SHARES


def over_repeats(
    sides: Sequence[tuple[Side, Side]], base: str, run: str, rules: Sequence[Rule] = (), margin: float = MARGIN
) -> Comparison:
    """Two or more pairs of runs as one comparison, of `base` and `run`."""
    pairs = [compare(a, b, rules, margin, resampled=False) for a, b in sides]
    changes = []
    firsts: dict[tuple[str, str | None], Change] = {}
    for pair in pairs:
        for change in pair.changes:
            firsts.setdefault(_key(change), change)
    for change in firsts.values():
        same = [one for pair in pairs for one in pair.changes if _key(one) == _key(change)]
        changes.append(_together(same, default_margin(change.metric, margin), absolute=change.metric in SHARES))
    crossed = []
    for number, rule in enumerate(rules):
        found = _together([pair.rules[number] for pair in pairs], rule.margin, absolute=rule.absolute)
        crossed.append(_asked(found, rule))
    outcomes = Counter(line for pair in pairs for line in pair.slo)
    different: dict[str, tuple[str, str]] = {}
    for pair in pairs:
        different |= pair.different
    return Comparison(
        base=base,
        run=run,
        different=different,
        changes=tuple(changes),
        rules=tuple(crossed),
        slo=tuple(f"{line} ({count} of {len(pairs)} repeats)" for line, count in outcomes.items()),
        notes=(
            f"{len(pairs)} runs each: means, and intervals of the mean difference"
            + ("; two runs tell little, repeat three times or more" if len(pairs) == 2 else ""),
            *dict.fromkeys(note for a, b in sides for note in side_notes(a, b)),
            *rule_notes(crossed),
        ),
    )


def _key(change: Change) -> tuple[str, str | None]:
    return change.metric, change.klass


def _together(changes: Sequence[Change], margin: float, *, absolute: bool) -> Change:
    both = [(one.base, one.run) for one in changes if one.base is not None and one.run is not None]
    first = changes[0]
    if not both:
        return Change(metric=first.metric, klass=first.klass, unit=first.unit, base=first.base, run=first.run)
    values = np.array(both, np.float64)
    a, b = (float(mean) for mean in values.mean(axis=0))
    interval = _interval(values[:, 1] - values[:, 0])
    relative = (interval[0] / a, interval[1] / a) if interval is not None and a > 0 else None
    return judged(first.metric, first.klass, first.unit, a, b, interval, relative, margin, absolute=absolute)


def _interval(differences: np.ndarray) -> tuple[float, float] | None:
    count = len(differences)
    if count < 2:
        return None
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    half = student_quantile(0.5 + CONFIDENCE / 2, count - 1) * error
    mean = float(differences.mean())
    return mean - half, mean + half


def _asked(change: Change, rule: Rule) -> Change:
    return msgspec.structs.replace(change, rule=rule.expression, regressed=change.verdict == "worse")
