"""Forgetting against keeping: whose interval the band is, which rows stand for what is kept, what the words say."""

import math
from collections.abc import Callable

import pytest

from expunge.reporting import balance
from expunge.reporting.plots import SQUEEZE_BEYOND, Plot
from html_pages import Make, Record, typed

Draw = Callable[[Record], Plot | None]


def scored(record: Record, **losses: tuple[float, float, float] | None) -> Record:
    """The record with these losses in place of its own: set_model = value, low, high."""
    names = ("value", "low", "high")
    given = [(name.split("_"), dict(zip(names, values, strict=True))) for name, values in losses.items() if values]
    kept = [{"metric": "loss", "set": name, "model": model, "count": 9} | values for (name, model), values in given]
    return record | {"scores": kept}


LOSSES: dict[str, tuple[float, float, float] | None] = {
    "forget_original": (0.02, 0.01, 0.03),
    "forget_unlearned": (4.4, 4.0, 4.8),
    "retain_original": (0.04, 0.03, 0.05),
    "retain_unlearned": (0.06, 0.05, 0.07),
    "judging_unlearned": (4.5, 4.2, 4.9),
}
TWIN: dict[str, tuple[float, float, float] | None] = {
    "forget_retrained": (5.0, 4.6, 5.4),
    "retain_retrained": (0.05, 0.04, 0.06),
}


def aim(record: Record) -> balance.Aim | None:
    means = balance._means(typed(record))
    found = [balance.Mark(m, means["forget", m], means["retain", m]) for m in balance.MODELS if ("forget", m) in means]
    return balance._aim(found, means.get(("judging", "unlearned")))


def test_the_band_is_the_retrained_models_or_that_of_never_seen_rows(make_record: Make) -> None:
    with_twin, without = scored(make_record(), **LOSSES, **TWIN), scored(make_record(), **LOSSES)
    assert aim(with_twin) == balance.Aim(balance.Mean(5.0, 4.6, 5.4), balance.Mean(0.05, 0.04, 0.06), True)
    assert aim(without) == balance.Aim(balance.Mean(4.5, 4.2, 4.9), balance.Mean(0.04, 0.03, 0.05), False)
    assert aim(scored(make_record(), **(LOSSES | {"judging_unlearned": None}))) is None
    notes = [plot.note for record in (with_twin, without) if (plot := balance.draw(typed(record)))]
    assert "retrained without these rows" in notes[0] and "never-seen rows under the unlearned model" in notes[1]


def test_the_words_say_what_is_drawn(make_record: Make) -> None:
    plot = balance.draw(typed(scored(make_record(), **LOSSES)))
    assert plot is not None
    assert plot.label == (
        "Mean loss of the rows to forget and of rows to keep, in nats per token: original 0.020 and 0.040; unlearned "
        "4.400 and 0.060. Never-seen rows cost 4.500."
    )


def test_what_stands_for_the_rows_to_keep(make_record: Make) -> None:
    for left, name in (("guard", "guard rows"), ("samples", "own samples")):
        renamed = {key.replace("retain", left): value for key, value in LOSSES.items()}
        plot = balance.draw(typed(scored(make_record(), **renamed)))
        assert plot is not None and f"of {name}, in nats" in plot.label
    assert balance.draw(typed(scored(make_record(), forget_unlearned=(1.0, 0.9, 1.1)))) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_what_is_not_a_number_is_not_drawn(make_record: Make, value: float | None) -> None:
    record = scored(make_record(), **LOSSES)
    record["scores"][1]["value"] = value
    plot = balance.draw(typed(record))
    assert plot is not None and "unlearned" not in plot.label


def test_narrow_bands_can_be_seen_and_wide_ones_stay(make_record: Make) -> None:
    assert balance._wide(balance.Mean(1.0, 0.999, 1.001), 10.0) == (0.85, 1.15)  # 3 % of 10
    assert balance._wide(balance.Mean(1.0, 0.5, 2.0), 10.0) == (0.5, 2.0)


def test_a_model_that_was_driven_far_away_still_fits(make_record: Make) -> None:
    plot = balance.draw(typed(scored(make_record(), **(LOSSES | {"forget_unlearned": (900.0, 800.0, 1000.0)}))))
    assert plot is not None and ">1,000<" in plot.svg and SQUEEZE_BEYOND < 900
