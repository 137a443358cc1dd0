"""Requests in sequence: rows of earlier requests are judged by how the first model held them; made evidence."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from expunge.evaluation import verdict
from expunge.records.lineage import Lineage, judge_again
from expunge.scoring.evidence import Evidence, SetEvidence

NEVER_SEEN = list(np.linspace(3.0, 5.0, 19))  # the fewest with which a rank of 0.05 can be seen; middle 4
IDS = ["a" * 16, "b" * 16]
BEFORE = Lineage(losses={IDS[0]: 0.1, IDS[1]: 0.1}, done=frozenset(IDS))


def answers(losses: list[float]) -> SetEvidence:
    n = len(losses)
    return SetEvidence(
        kinds=("answer",) * n,
        tasks=("",) * n,
        loss=np.array(losses),
        targets=np.ones(n),
        token_loss=np.array(losses),
        references=("secret 1234",) * n,
        generations=("something else",) * n,
        shapes=np.array([[2.0, 0.0]] * n),
    )


def evidence(before: list[float], after: list[float]) -> dict[str, Evidence]:
    """The model that this run was given had forgotten both rows."""
    sides = {"original": before, "unlearned": after}
    return {
        name: Evidence({"earlier": answers(losses), "judging": answers(NEVER_SEEN)}) for name, losses in sides.items()
    }


def check_nothing_comes_back_unseen(judge: Callable[..., Any]) -> None:
    stayed = judge(evidence([3.9, 4.1], [3.9, 4.1]), IDS, BEFORE)
    assert stayed.forget == "forgotten" and stayed.came_back == [] and stayed.counts == {"forgotten": 2}
    back = judge(evidence([3.9, 4.1], [1.0, 4.1]), IDS, BEFORE)  # (1.0 - 0.1) of 3.9 nats: 23 % of the way
    assert back.forget == "not forgotten" and back.came_back == IDS[:1] and back.counts["not forgotten"] == 1
    assert back.reasons[0].startswith("1 row that an earlier run forgot is known again (aaaa")
    assert back.first == [0.1, 0.1]


def test_nothing_comes_back_unseen() -> None:
    check_nothing_comes_back_unseen(judge_again)


def _from_the_model_given(found: Any, ids: list[str], lineage: Lineage) -> Any:
    """Measures the way from the model that this run was given, which has gone it all."""
    losses = found["original"].sets["earlier"].loss
    return judge_again(found, ids, dataclasses.replace(lineage, losses=dict(zip(ids, losses, strict=True))))


def _by_the_loss_before(found: Any, ids: list[str], lineage: Lineage) -> Any:
    """Looks at the model that was given in place of the one that was made."""
    return judge_again(found | {"unlearned": found["original"]}, ids, lineage)


@pytest.mark.parametrize("broken", [_from_the_model_given, _by_the_loss_before])
def test_the_check_rejects(broken: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError):
        check_nothing_comes_back_unseen(broken)


@pytest.mark.parametrize(("low", "forget", "back"), [(1, "forgotten", 0), (16, "partly", 16)])
def test_rows_that_rank_low_as_chance_has_it_have_not_come_back(low: int, forget: str, back: int) -> None:
    ids = [f"{place:016}" for place in range(20)]
    before = Lineage(losses=dict.fromkeys(ids, 0.1), done=frozenset(ids))
    now = [2.9] * low + [4.0] * (20 - low)  # below every never-seen row, and most of the way there
    found = judge_again(evidence([4.0] * 20, now), ids, before)
    assert found is not None and found.counts.get("partly") == low
    assert (found.forget, len(found.came_back)) == (forget, back)
    assert ("known again" in found.reasons[0]) == bool(back)
    assert found.why == ([f"of earlier requests {reason}" for reason in found.reasons] if back else [])


def test_rows_that_no_record_knows_are_judged_from_a_loss_of_0() -> None:
    back = judge_again(evidence([3.9, 4.1], [1.9, 4.1]), IDS, Lineage())  # 1.9 of 4 nats: 48 % of the way
    assert back is not None and back.rows[0].verdict == "not forgotten" and back.came_back == []
    assert back.first == [None, None]


def test_without_earlier_rows_there_is_nothing_to_judge() -> None:
    nothing = {name: Evidence({"judging": answers(NEVER_SEEN)}) for name in ("original", "unlearned")}
    assert judge_again(nothing, [], BEFORE) is None


def test_forget_rows_are_judged_as_before() -> None:
    sets = {"forget": answers([0.1]), "judging": answers(NEVER_SEEN)}
    after = Evidence(sets | {"forget": answers([4.0])})
    assert [row.verdict for row in verdict.judge_rows(Evidence(sets), after, None)] == ["forgotten"]
