"""Curves of attacks, from records alone."""

import pytest

from expunge.reporting import curves, html
from html_pages import Make, typed


def test_the_model_as_written_stands_at_zero(make_record: Make) -> None:
    record = typed(make_record())
    (drawn,) = curves.draw(record)
    for model, along in (("unlearned", [3.1, 2.6]), ("retrained", [5.0, 5.0])):
        written = [value for value in record.losses["forget"][model] if value is not None]
        line = drawn.curve.lines[model]
        assert list(line) == [0, 5, 30]
        assert list(line.values()) == pytest.approx([sum(written) / len(written), *along])
    assert drawn.curve.title == "relearning: the other half" and drawn.curve.axis == "steps of training"
    assert "unlearned" in drawn.plot.label and "3.1" in drawn.plot.label and "<svg" in drawn.plot.svg
    page = html.render(record)
    assert "relearning: the other half" in page and page.index("curves") < page.index("Not tested")


def test_beside_never_seen_rows_where_there_is_no_twin(make_record: Make) -> None:
    (drawn,) = curves.draw(typed(make_record(retrained=False)))
    assert set(drawn.curve.lines) == {"unlearned", "never-seen rows"}


def test_one_point_is_no_curve(make_record: Make) -> None:
    record = make_record()
    record["attacks"]["results"][1]["settings"].pop()
    assert curves.draw(typed(record)) == []
    assert 'class="curves"' not in html.render(typed(record))
