"""Which rows attacks look at: as many never-seen rows as the request is large, of its kinds, spread evenly."""

import pytest

from expunge.data.rows import Row
from expunge.demo.tiny import byte_tokenizer
from expunge.evaluation import attacked, evidence
from expunge.evaluation.attacked import places
from expunge.model import generation
from problems import TEXT_VOCABULARY, encoded, problem_of, text_model


def test_never_seen_rows_follow_the_request() -> None:
    kinds = {
        "forget": ["answer"] * 5 + ["document"] * 20,
        "judging": ["document", "answer"] * 50,
        "retain": ["answer"] * 200,
    }
    found = places(kinds)
    assert found["forget"] == list(range(25)) and len(found["retain"]) == 64
    judging = [kinds["judging"][place] for place in found["judging"]]
    assert judging.count("answer") == 16 and judging.count("document") == 40  # 2 a row, and no fewer than 16
    assert found["judging"] == sorted(set(found["judging"])) and found["judging"][-1] >= 98  # to the end of the set


def test_rows_of_a_kind_that_is_not_forgotten_say_nothing() -> None:
    assert places({"forget": ["answer"] * 5, "judging": ["document"] * 9}) == {"forget": [0, 1, 2, 3, 4]}
    assert places({"forget": [], "judging": ["answer"]}) == {}


def test_large_requests_are_looked_at_in_part() -> None:
    found = places({"forget": ["answer"] * 1000, "judging": ["answer"] * 1000})
    assert [len(found[name]) for name in ("forget", "judging")] == [64, 64]


@pytest.mark.parametrize("broken", [False, True])
def test_a_prompt_in_several_batches_is_drawn_anew(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 samples in batches of 4; with one seed for all batches there are no more than 4 different ones."""
    monkeypatch.setattr(generation, "batch_size", lambda parameters: 4)
    if broken:
        monkeypatch.setattr(attacked, "mixed", lambda seed, number: seed)
    tokenizer = byte_tokenizer([], TEXT_VOCABULARY)
    rows = (Row("rows.jsonl", 1, "answer", "Who lives here?", "nobody that we know of"),) * 20
    problem = problem_of(text_model(), {"forget": encoded("forget", rows, tokenizer)}, tokenizer=tokenizer)
    said = attacked._drawn(problem, rows, evidence.prompts_of(problem, rows), 0, 1.0)
    assert len(said) == 20 and (len({*said.values()}) > 10) == (not broken)
