"""What attacks showed, for pages: a table of the settings, and which attacks were not tested. Pure functions."""

from dataclasses import dataclass

from expunge.reporting.finding import Attack, Attacks, Means, Measure, Setting
from expunge.reporting.words import NOT_MEASURED, number

TITLE = "Under attack"
HEADERS = ("Attack", "Verdict", "Given back", "Loss", "Compared with")
LEAD = (
    "The same rows, after something that somebody may do to the model or its prompts. A verdict compares with the "
    "retrained model under the same attack, or with rows that the model never saw."
)
MINE = ("forget", "unlearned")
OTHERS = {"retrained": "retrained model", "judging": "never-seen rows", None: "nothing"}


@dataclass(frozen=True, slots=True)
class Section:
    """Lines under the headers, and the titles of what was not tested in a sentence ("": nothing)."""

    lines: tuple[tuple[str, ...], ...]
    not_tested: str
    title: str = TITLE
    lead: str = LEAD
    headers: tuple[str, ...] = HEADERS


def section(found: Attacks) -> Section:
    """All settings, also where there are none."""
    lines = [_line(attack, setting) for attack in found.results for setting in attack.settings]
    missing = ", ".join(found.not_tested.values())
    return Section(tuple(lines), f"Not tested: {missing}." if missing else "")


def _line(attack: Attack, setting: Setting) -> tuple[str, ...]:
    name = f"{attack.title}: {setting.setting}"
    return (name, setting.verdict, _both(setting, "known"), _both(setting, "loss"), OTHERS[setting.compared_with])


def other_of(setting: Setting) -> tuple[str, str]:
    """Rows and model of what stands beside the forget rows of the unlearned model."""
    return ("forget", "retrained") if setting.compared_with == "retrained" else ("judging", "unlearned")


def _both(setting: Setting, measure: Measure) -> str:
    """Of the forget rows under the unlearned model, and of what it is compared with."""
    mine, other = (value(setting, *one, measure) for one in (MINE, other_of(setting)))
    if mine is None:
        return NOT_MEASURED
    return _number(mine, measure) + ("" if other is None else f" (beside {_number(other, measure)})")


def value(setting: Setting, rows: str, model: str, measure: Measure) -> float | None:
    """Of rows under a model; None where it was not taken."""
    found = setting.values.get(rows, {}).get(model, Means(None, None))
    return found.known if measure == "known" else found.loss


def _number(value: float, measure: Measure) -> str:
    return f"{value:.0%}" if measure == "known" else number(value)
