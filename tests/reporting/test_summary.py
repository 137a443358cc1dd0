"""What a page says first beside the verdict, and what it says of its scores."""

import pytest

from expunge.reporting import html, markdown, metric_cards, summary, tables
from html_pages import Make, Record, typed, words


def said(record: Record) -> dict[str, str]:
    return {fact.title: fact.text for fact in summary.facts(typed(record))}


def test_asked_compared_and_cost(make_record: Make) -> None:
    record = make_record(rows=7)
    record["method"]["row_passes"] = 1234.5
    assert list(said(record).values()) == [
        "To remove 7 training rows (1 document, 6 answers) and keep the rest of the model; 300 rows to keep were "
        "given. Method: loss_matching.",
        "Rows to forget were compared with holdout rows (10 documents and 50 answers). Calibrated: rows of the same "
        "kind that this model never saw. A model retrained without these rows was measured beside it.",
        "Unlearning took 2 min 40 s and 1,234 row passes (one row forward and backward). With loading and all evidence "
        "it was 2 min 54 s. Memory at most: 1.80 GiB.",
    ]


def test_times_after_an_interruption_are_not_those_of_the_whole(make_record: Make) -> None:
    record = make_record(rows=1)
    assert "interrupted" not in said(record)["What it cost"]
    record["interruptions"] = 1
    assert "The run was interrupted: these times are those of its last part." in said(record)["What it cost"]


def test_what_was_not_there_is_said(make_record: Make) -> None:
    record = make_record(rows=1, retrained=False, command="evaluate")
    record["data"] = {"forget": record["data"]["forget"] | {"documents": 0, "answers": 1}}
    record |= {"seconds": {}, "peak_memory_bytes": 0, "limits": []}
    found = said(record)
    assert found["What was asked for"] == (
        "To judge whether a model has lost 1 training row (1 answer) and keep the rest of the model; no rows to keep "
        "were given."
    )
    assert found["What it was compared with"].endswith("No retrained model was measured.")
    assert found["What it cost"] == "Not measured."
    assert summary.limits(typed(record)) == ("The record names no limits. That is an omission, not a finding.",)


def test_limits_are_in_the_size_of_the_rest(make_record: Make) -> None:
    """Neither the list nor its place has a size of its own."""
    style = (html.TEMPLATES / "report.css").read_text(encoding="utf-8")
    rules = [line for line in style.splitlines() if ".limits" in line or line.startswith(".facts")]
    assert rules and not [line for line in rules if "font-size" in line and "h2" not in line]


def test_cards_stand_beside_the_scores(make_record: Make) -> None:
    record = make_record()
    found = metric_cards.cards(typed(record))
    assert {card.title for card in found} == {
        line.metric for g in tables.comparison(typed(record)).groups for line in g.lines
    }
    page = html.render(typed(record))
    text = words(page)
    assert page.index('class="limits"') < page.index('id="scores"'), "what was not tested stands with the verdict"
    assert "✗ comes back" in text and "✓ forgotten" in text[text.index("Under attack") :]
    for card in found:
        assert f'<details id="{card.anchor}">' in page and f'href="#{card.anchor}"' in page
        assert all(" ".join(line.split()) in text for line in card.lines)
    assert "| Loss | Mean loss per row, in nats per target token" in markdown.render(typed(record))


def test_scores_of_unknown_metrics_have_no_cards(make_record: Make) -> None:
    record = make_record() | {"metrics": {}}
    assert metric_cards.cards(typed(record)) == () and metric_cards.TITLE not in markdown.render(typed(record))
    assert not any(line.card for group in tables.comparison(typed(record)).groups for line in group.lines)


@pytest.mark.parametrize("place", ["first", "last"])
def test_rows_of_earlier_requests_stand_in_the_table(make_record: Make, make_texts: Make, place: str) -> None:
    record = make_record(rows=3, forgotten=1.0)
    row = record["rows"][0] | {"verdict": "not forgotten" if place == "first" else "forgotten", "rank": 0.9}
    row["loss"] = row["loss"] | {"first": 0.1}
    record["earlier"] = {"verdict": "partly", "reasons": [], "counts": {}, "rows": [row], "came_back": []}
    table = tables.row_table(typed(record), make_texts(record))
    line = table.lines[0 if place == "first" else -1]
    assert table.roles == (("earlier request", "forget row") if place == "first" else ("forget row", "earlier request"))
    assert line.role == "earlier request" and line.text is None, "its name is one of another file"
    assert sum(one.text is not None for one in table.lines) == 3
