"""Plans of any workload: every body is JSON of the planned lengths, whatever the segments."""

import json
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgen import planning
from llmgen.config import Klass, Load, RunConfig, Target, Workload
from llmgen.plan import PlanReader
from llmgen.planning import PlanBuilder

lengths = st.one_of(
    st.integers(1, 3000),
    st.sampled_from(["uniform:1,1200", "normal:40,30", "lognormal:300,900", "zipf:0.7,20000", "zipf:3,5"]),
)
text = st.text(st.characters(blacklist_categories=("Cs",)), max_size=8)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(-1e9, 1e9), text), st.lists, max_leaves=4
)
OURS = {"messages", "stream", "max_tokens", "min_tokens", "model"}
overrides = st.dictionaries(text.filter(lambda name: name not in OURS), values, max_size=3)
classes = st.builds(
    Klass,
    weight=st.floats(0.01, 10),
    input=lengths,
    output=lengths,
    body=overrides,
    stream=st.booleans(),
    model=st.sampled_from(["m", "a:1,b:5", 'odd"name']),
)


@given(
    mix=st.dictionaries(text, classes, min_size=1, max_size=4),
    shared=overrides,
    exact=st.booleans(),
    requests=st.integers(1, 120),
    workers=st.integers(1, 7),
    rows=st.integers(1, 130),
    seed=st.integers(0, 2**63 - 1),
)
@settings(max_examples=60, deadline=None)
def test_bodies_are_what_the_rows_say(mix, shared, exact, requests, workers, rows, seed):
    config = RunConfig(
        target=Target(urls=("http://h",)),
        load=Load(rate=100, requests=requests),
        workload=Workload(mix=mix, body=shared, exact_output=exact),
        seed=seed,
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(planning, "FIRST_SEGMENT_ROWS", min(rows, 5)),
        mock.patch.object(planning, "SEGMENT_ROWS", rows),
    ):
        builder = PlanBuilder(config, Path(folder), workers)
        builder.write_all()
        found = [(row.copy(), body) for row, body in PlanReader(Path(folder)).bodies()]
    assert len(found) == requests
    names = list(mix)
    for number, (row, body) in enumerate(found):
        klass = mix[names[row["klass"]]]
        document = json.loads(body)
        assert (row["index"], row["worker"]) == (number, number % workers)
        assert len(document["messages"][0]["content"].split()) == row["planned_input"] >= 1
        assert document["max_tokens"] == row["planned_output"] >= 1
        assert document["stream"] is klass.stream
        assert document.get("min_tokens") == (row["planned_output"] if exact else None)
        for name, value in klass.body.items():
            if value is None:
                assert name not in document
            elif not isinstance(value, dict):
                assert document[name] == value
    assert len({json.loads(body)["messages"][0]["content"].split()[0] for _, body in found}) == requests
    assert np.all(np.diff([int(row["due"]) for row, _ in found]) >= 0)
