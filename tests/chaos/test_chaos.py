"""Runs that are killed again and again end like one that nothing disturbed. `benchmarks/chaos.py` is the long form.

RLCURRIC_CHAOS_SEED draws other moments.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from rlcurric.train.rundir import DECISIONS
from tests.chaos import accounts
from tests.chaos.driver import Campaign

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("RLCURRIC_CHAOS_SEED", "6"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """One rank, with its undisturbed run."""
    campaign = Campaign(tmp_path_factory.mktemp("alone"), SEED)
    campaign.prepare()
    return campaign


def test_one_rank_that_is_killed_anywhere_ends_the_same_bit_for_bit(alone: Campaign) -> None:
    planned = [
        [alone.survived("worker"), alone.strike("rank", "rollout", 2)],
        [alone.survived("engine"), alone.strike("all", "save: write")],
        [alone.strike("sigterm", "update")],
        [alone.strike("all", "stage change")],
        [alone.strike("stop", "evaluate")],
    ]
    kills = alone.run(1, planned)
    asked = [(one.kind, one.phase) for strikes in planned for one in strikes]
    assert sorted((one["kind"], one["phase"]) for one in kills) == sorted(asked)


def test_two_ranks_that_are_killed_anywhere_end_with_the_same_prompts_and_counts(
    tmp_path: Path,
) -> None:
    both = Campaign(tmp_path, SEED, "cpu_2_ranks")
    both.prepare()
    planned = [
        [both.survived("worker", rank=1), both.strike("rank", "update", 2, rank=1)],
        [both.strike("sigterm", "rollout")],
    ]
    kills = both.run(1, planned)
    assert sorted(one["kind"] for one in kills) == ["rank", "sigterm", "worker"]


def test_a_group_that_counts_twice_or_not_at_all_is_found(alone: Campaign, tmp_path: Path) -> None:
    """The checks that the others rest on can fail."""
    run_dir = tmp_path / "run"
    shutil.copytree(alone.whole.run_dir, run_dir)
    log = run_dir / DECISIONS
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert accounts.first_difference_of_counts(alone.whole.run_dir, run_dir) is None
    accounts.every_group_once(run_dir)
    (ended, *_) = [row for row in rows if row["kind"] == "outcomes"]
    first = ended["groups"].pop(0)
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(AssertionError, match="unaccounted"):
        accounts.every_group_once(run_dir)
    found = accounts.first_difference_of_counts(alone.whole.run_dir, run_dir)
    assert found is not None and found.startswith("groups that ended")
    ended["groups"] += [first, first]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(AssertionError, match="ended more than once"):
        accounts.every_group_once(run_dir)
