"""Tables of a record: scores side by side, rows from the worst on, numbers and units as they are shown."""

import math

import pytest

from expunge.files.visible import visible
from expunge.reporting import provenance, tables
from expunge.reporting.words import duration, number, size
from html_pages import Make, Record, typed


def line_of(comparison: tables.Comparison, group: str, metric: str) -> tables.Line:
    (found,) = [line for g in comparison.groups if g.title == group for line in g.lines if line.metric == metric]
    return found


def score(metric: str, name: str, model: str, value: float | None, low: float | None, high: float | None) -> Record:
    return {"metric": metric, "set": name, "model": model, "value": value, "low": low, "high": high, "count": 9}


def test_scores_stand_side_by_side_in_the_order_of_the_models(make_record: Make) -> None:
    comparison = tables.comparison(typed(make_record()))
    assert comparison.models == ("original", "unlearned", "retrained")
    assert [group.title for group in comparison.groups] == ["Forget rows", "Judging rows", "Retain rows", "Collateral"]
    loss = line_of(comparison, "Forget rows", "Loss")
    assert [cell.value for cell in loss.cells] == ["0.020", "4.810", "5.020"]
    assert loss.cells[1].interval == "4.510 to 5.110" and loss.cells[1].count == "n = 30"


def test_a_model_without_scores_has_no_column_and_is_named(make_record: Make) -> None:
    comparison = tables.comparison(typed(make_record(retrained=False)))
    assert comparison.models == ("original", "unlearned")
    assert comparison.missing == "Not measured: the retrained model."
    assert "retrained model is" not in comparison.groups[0].best


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [((0.0, 1.0), (0.0, 0.1), "cannot tell: too few rows"), ((0.0, 0.1), (0.0, 1.0), "cannot tell: too few rows"),
     ((0.0, 0.99), (0.0, 0.1), "level with retrained")],
)  # fmt: skip
def test_an_interval_over_the_whole_range_tells_nothing(
    make_record: Make, ours: tuple[float, float], theirs: tuple[float, float], word: str
) -> None:
    record = make_record()
    record["scores"] = [
        score("tpr_at_low_fpr", "forget", "unlearned", 0.01, *ours),
        score("tpr_at_low_fpr", "forget", "retrained", 0.0, *theirs),
    ]
    (line,) = tables.comparison(typed(record)).groups[0].lines
    assert line.reading == word
    assert (line.cells[1].interval == "cannot tell") == (ours == (0.0, 1.0))
    record["metrics"] = {}  # without its range nobody knows that it is the whole
    assert tables.comparison(typed(record)).groups[0].lines[0].reading == "level with retrained"


def test_a_single_missing_score_reads_not_measured(make_record: Make) -> None:
    record = make_record()
    record["scores"] = [s for s in record["scores"] if (s["metric"], s["model"]) != ("perplexity", "retrained")]
    assert line_of(tables.comparison(typed(record)), "Collateral", "Perplexity").cells[2] == tables.Cell("not measured")


@pytest.mark.parametrize(
    ("metric", "ours", "theirs", "word", "tone"),
    [
        ("loss", (4.0, 5.0), (4.5, 5.5), "level with retrained", "good"),
        ("loss", (6.0, 7.0), (4.5, 5.5), "past retrained: over-forgetting", "over"),
        ("loss", (1.0, 2.0), (4.5, 5.5), "short of retrained", "bad"),
        ("knowledge", (0.0, 0.1), (0.3, 0.5), "past retrained: over-forgetting", "over"),
        ("knowledge", (0.8, 0.9), (0.3, 0.5), "short of retrained", "bad"),
        ("loss_attack", (0.1, 0.2), (0.4, 0.6), "past retrained: over-forgetting", "over"),
    ],
)
def test_better_at_forgetting_than_retrained_is_a_fault(
    make_record: Make, metric: str, ours: tuple[float, float], theirs: tuple[float, float], word: str, tone: str
) -> None:
    record = make_record()
    record["scores"] = [
        score(metric, "forget", "unlearned", sum(ours) / 2, *ours),
        score(metric, "forget", "retrained", sum(theirs) / 2, *theirs),
    ]
    line = tables.comparison(typed(record)).groups[0].lines[0]
    assert (line.reading, line.tone) == (word, tone)


@pytest.mark.parametrize(
    ("metric", "ours", "word"),
    [
        ("loss", (0.5, 0.6), "worse than original"),
        ("loss", (0.01, 0.02), "better than original"),
        ("knowledge", (0.01, 0.02), "worse than original"),
        ("knowledge", (0.15, 0.35), "level with original"),
    ],
)
def test_rows_to_keep_are_read_against_the_original(
    make_record: Make, metric: str, ours: tuple[float, float], word: str
) -> None:
    record = make_record()
    record["scores"] = [
        score(metric, "retain", "original", 0.2, 0.1, 0.3),
        score(metric, "retain", "unlearned", sum(ours) / 2, *ours),
        score(metric, "retain", "retrained", 0.9, 0.8, 1.0),
    ]
    assert tables.comparison(typed(record)).groups[0].lines[0].reading == word


def test_without_intervals_nothing_is_read_into_a_difference_but_equal_is_equal(make_record: Make) -> None:
    record = make_record()
    record["scores"] = [
        score("exact", "forget", "unlearned", 0.0, None, None),
        score("exact", "forget", "retrained", 0.1, None, None),
    ]
    assert tables.comparison(typed(record)).groups[0].lines[0].reading == "no intervals to compare"
    record["scores"][1]["value"] = 0.0
    assert tables.comparison(typed(record)).groups[0].lines[0].reading == "equal to retrained"


def test_a_model_that_no_row_was_measured_with_has_no_column(make_record: Make) -> None:
    record = make_record(rows=7)
    for row in record["rows"]:
        row["loss"] |= {"retrained": None}
        row["known"] |= {"retrained": None}
    assert tables.row_table(typed(record)).models == ("original", "unlearned")
    record["rows"][3]["known"]["retrained"] = False
    assert tables.row_table(typed(record)).models == ("original", "unlearned", "retrained")


def test_the_worst_rows_come_first_and_the_rest_is_counted(make_record: Make) -> None:
    table = tables.row_table(typed(make_record(rows=500, forgotten=0.9)))
    verdicts = [line.badge.word for line in table.lines]
    order = [tables.WORST_FIRST.index(verdict) for verdict in verdicts]
    assert order == sorted(order) and order[0] == tables.WORST_FIRST.index("not forgotten")
    assert len(verdicts) == 500 and table.left_out == 0
    fewer = tables.row_table(typed(make_record(rows=500, forgotten=0.9)), most=200)
    assert fewer.lines == table.lines[:200] and fewer.left_out == 300
    assert "forgotten" in verdicts, "50 rows are worse, so 150 forgotten ones follow"


def test_ranks_out_of_range_stay_on_the_track(make_record: Make) -> None:
    record = make_record(rows=2)
    record["rows"][0]["rank"], record["rows"][1]["rank"] = 1.2, None
    places = {line.name: (line.rank, line.place) for line in tables.row_table(typed(record)).lines}
    assert places == {"forget.jsonl:1": ("1.20", 1.0), "forget.jsonl:2": ("not measured", None)}


def test_text_enters_only_when_handed_over(make_record: Make, make_texts: Make) -> None:
    record = make_record(rows=2)
    assert all(line.text is None for line in tables.row_table(typed(record)).lines)
    texts = make_texts(record)
    del texts["forget.jsonl:2"]
    with_text = {line.name: line.text for line in tables.row_table(typed(record), texts).lines}
    first = with_text["forget.jsonl:1"]
    assert first is not None and first.prompt == "Where does person 0 live?"
    assert with_text["forget.jsonl:2"] == tables.RowText(None, None, (None, None, None))


def test_the_record_is_told_in_full(make_record: Make) -> None:
    found = {table.title: table for table in provenance.tables(typed(make_record()))}
    assert ("replay.dropped", "188") in found["Notes of the method"].lines
    assert ("targets.calibrated", "yes") in found["Notes of the method"].lines
    assert found["Attempts"].lines[0] == ("1", "0.004", "40", "the guard rows rose by more than 0.1")
    assert ("options.lr", "none") in found["Configuration"].lines
    assert ("time in all", "2 min 54 s") in found["Run"].lines, "1.2 + 3.0 + 160.1 + 9.9 = 174.2 s"
    assert found["Data"].lines[0] == ("forget", "30", "5", "25", "30", "930", "0")


def test_an_evaluation_has_no_tables_about_training(make_record: Make) -> None:
    titles = {table.title for table in provenance.tables(typed(make_record(command="evaluate")))}
    assert not titles & {"Method", "Attempts", "Weights as written", "Options of the method"}
    assert provenance.subspace_sentence(typed(make_record(command="evaluate"))) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "not measured"), (math.nan, "not finite"), (math.inf, "not finite"), (0.0, "0.000"), (0.0001, "1.0e-04"),
     (0.0005, "0.001"), (1.23456, "1.235"), (12.345, "12.35"), (1234.5, "1,234"), (-0.25, "-0.250")],
)  # fmt: skip
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_units() -> None:
    assert [duration(s) for s in (None, 5.04, 75.9, 3725.0)] == ["not measured", "5.0 s", "1 min 15 s", "1 h 2 min"]
    assert [size(s) for s in (None, 3 * 2**20, 2**31)] == ["not measured", "3.0 MiB", "2.00 GiB"]


def test_characters_that_hide_or_reorder_are_named() -> None:
    assert visible("a\u202eb\x1b\ud800\r\nc\td\u05d0") == "a[U+202E]b[U+001B][U+D800]\nc\td\u05d0"
