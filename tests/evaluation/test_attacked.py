"""Which rows attacks look at: as many never-seen rows as the request is large, of its kinds, spread evenly."""

from expunge.evaluation.attacked import places


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
