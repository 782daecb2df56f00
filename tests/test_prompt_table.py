"""Numbers about prompts: what is written is read, whatever the order, and memory follows visits, not the pool."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcurric import seeds
from rlcurric.curriculum.evidence import PassRates
from rlcurric.curriculum.state import as_json
from rlcurric.curriculum.table import PromptTable
from rlcurric.types import GroupId, GroupOutcome

UIDS = st.integers(0, 2**64 - 1)
WRITES = st.lists(st.dictionaries(UIDS | st.integers(0, 30), st.floats(-5, 5), max_size=8))


@settings(max_examples=80, deadline=None)
@given(WRITES)
def test_a_table_is_a_dictionary_with_defaults(writes: list[dict[int, float]]) -> None:
    table, model = PromptTable(a=1.5, b=0.0), {}
    for write in writes:
        table.put(list(write), a=list(write.values()))
        model |= write
        asked = [*model, 2**63 + 1]
        found = table.get(asked)
        assert found["a"].tolist() == [model.get(uid, 1.5) for uid in asked]
        assert found["b"].tolist() == [0.0] * len(asked)
    assert table.uids().tolist() == sorted(model)
    assert table.total("a") == pytest.approx(sum(model.values()))


def test_merges_keep_what_was_written() -> None:
    """More writes than the dict of the latest holds, read back before and after."""
    table = PromptTable(n=0.0)
    uids = [seeds.hash64("uid", k) for k in range(20_000)]
    for start in range(0, len(uids), 500):
        part = uids[start : start + 500]
        table.put(part, n=np.arange(start, start + 500))
        assert table.get(part)["n"].tolist() == list(range(start, start + 500))
    assert table.get(uids)["n"].tolist() == list(range(20_000))
    table.put(uids[::7], n=[-1.0] * len(uids[::7]))
    assert (table.get(uids)["n"] == -1).sum() == len(uids[::7])


def test_a_loaded_table_goes_on_as_it_was_to_the_last_bit_of_a_sum() -> None:
    """Rows keep the order in which they were first written: sums of floats depend on it."""
    table, again = PromptTable(n=0.0), PromptTable(n=0.0)
    for k in range(3000):
        table.put([seeds.hash64("uid", k)], n=[1 / (k + 1)])
    again.load_state_dict(table.state_dict())
    for one in (table, again):
        one.put([seeds.hash64("uid", 7), 5], n=[0.3, 0.1])
    assert again.total("n") == table.total("n")
    assert as_json(again.state_dict()) == as_json(table.state_dict())
    assert again.get([5, seeds.hash64("uid", 7), 8888])["n"].tolist() == [0.1, 0.3, 0.0]


def test_a_truncated_table_never_knew_the_rest() -> None:
    table, twin = PromptTable(n=0.0), PromptTable(n=0.0)
    for uid in range(3000):
        table.put([uid], n=[uid])
        if uid < 1500:
            twin.put([uid], n=[uid])
    table.truncate(1500)
    assert as_json(table.state_dict()) == as_json(twin.state_dict())
    assert table.get([1499, 1500])["n"].tolist() == [1499.0, 0.0]
    table.put([1500], n=[-1.0])
    assert table.get([1500])["n"].tolist() == [-1.0] and len(table) == 1501


def test_a_state_with_other_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="columns"):
        PromptTable(n=0.0).load_state_dict(PromptTable(m=0.0).state_dict())


def outcome(uid: int, correct: tuple[float, ...], **changes: Any) -> GroupOutcome:
    values = {"weight": 1.0, "step": 3, **changes}
    return GroupOutcome(
        GroupId("rl", uid, 0),
        "d",
        values["step"],
        correct,
        correct,
        (1,) * len(correct),
        0,
        0,
        "trained",
        weight=values["weight"],
    )


def test_pass_rates_add_up_and_count_late_groups_less() -> None:
    rates = PassRates()
    rates.observe([outcome(1, (1.0, 0.0)), outcome(2, (1.0, 1.0), weight=0.5), outcome(3, ())])
    rates.observe([outcome(1, (1.0, 1.0), step=5), outcome(4, (1.0,), weight=0.0)])
    samples, rate = rates.lookup([1, 2, 3, 4])
    assert samples.tolist() == [4.0, 1.0, 0.0, 0.0]
    assert rate[:2].tolist() == [0.75, 1.0]
    assert np.isnan(rate[2:]).all()
    assert rates.ages([1, 2], 9).tolist() == [4.0, 6.0]
    assert np.isnan(rates.ages([3], 9)).all()
    assert rates.uids().tolist() == [1, 2]
    again = PassRates()
    again.load_state_dict(rates.state_dict())
    assert as_json(again.lookup([1, 2])) == as_json(rates.lookup([1, 2]))
