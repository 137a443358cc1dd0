"""Evidence of a served model is that of its folder, to float precision; who answers wrongly is not believed."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import problems
from expunge.attacks.paraphrase import WAYS
from expunge.benchmarks.rows import Rows
from expunge.data.rows import Row
from expunge.data.tokens import Window
from expunge.errors import ExpungeError
from expunge.evaluation import asking, attacked, evidence, verdict
from expunge.evaluation.asking import Asking
from expunge.evaluation.models import KEPT, SILENT
from expunge.model.endpoint import Endpoint
from expunge.model.served import met
from expunge.problem import Problem, Split
from expunge.runs.checkpoint import Checkpoints
from expunge.scoring.evidence import Evidence, SetEvidence
from expunge.scoring.seen import FIGURES
from openai_server import Json, Tiny, serving

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def talk(name: str, number: int) -> Row:
    turns = (("user", f"{name} {number}"), ("assistant", str(number * 31)))
    return Row(name, 20 + number, "answer", turns[0][1], turns[1][1], messages=turns)


@pytest.fixture(scope="module")
def problem(tokenizer: Any) -> Problem:
    """Answers, documents (one of more than a window) and conversations of a model whose words hang on all before."""
    tokenizer = tokenizer.__class__(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    rows = {
        name: (
            *problems.rows_of(name, [f"{n * 37 + place}" for n in range(2 + 2 * (name == "retain"))], [f"{name} is"]),
            talk(name, 1),
            *([Row(name, 30, "document", "", "a long one " * 7)] if name == "retain" else []),
        )
        for place, name in enumerate(("forget", "retain", "judging", "samples"))
    }
    made = problems.problem_of(problems.text_model("llama", seed=2, context=256), {}, tokenizer=tokenizer, context=64)
    with torch.no_grad():
        for weight in made.model.parameters():
            weight.mul_(6 if weight.ndim > 1 else 1)
    made.model.requires_grad_(False)
    splits = {name: problems.encoded(name, own, tokenizer, 64) for name, own in rows.items()}
    return replace(made, splits=splits, movable={})


@pytest.fixture(scope="module")
def folder(problem: Problem) -> Evidence:
    return evidence.record(problem, problem.splits, SILENT, Rows.generating)


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path, KEPT)


def asked(problem: Problem, kept: Checkpoints, url: str, **changed: Any) -> Asking:
    served = met(Endpoint(url, "", 20.0), "tiny", problem.tokenizer, conversations=True, others=True)
    return Asking.of(replace(served, **changed), problem, kept)


def check_same(folder: Evidence, found: Evidence) -> None:
    """Losses to float precision, and every word."""
    assert found.sets.keys() == folder.sets.keys()
    for name, own in folder.sets.items():
        other = found.sets[name]
        assert (other.kinds, other.tasks, other.no_losses) == (own.kinds, own.tasks, "")
        assert (other.references, other.generations) == (own.references, own.generations)
        for one, two in ((own.loss, other.loss), (own.token_loss, other.token_loss)):
            assert np.allclose(one, two, rtol=1e-5, atol=1e-5)
        assert np.array_equal(own.targets, other.targets) and np.array_equal(own.shapes, other.shapes)


def test_evidence_is_that_of_the_folder(problem: Problem, folder: Evidence, kept: Checkpoints) -> None:
    tiny = Tiny(problem.model, problem.tokenizer)
    with serving(tiny) as url:
        found = asked(problem, kept, url)
        check_same(folder, found.record(problem.splits, SILENT, Rows.generating))
    assert any("messages" in body for body in tiny.asked) and found.notes == {}
    assert len({text for rows in folder.sets.values() for text in rows.generations if text}) > 6


def test_text_gives_the_same_but_for_rows_in_windows(problem: Problem, folder: Evidence, kept: Checkpoints) -> None:
    """A window that begins within a row has no begin token, which the server would put there."""
    with serving(Tiny(problem.model, problem.tokenizer, ids=False)) as url:
        found = asked(problem, kept, url)
        recorded = found.record(problem.splits, SILENT, Rows.generating)
    assert "--context" in recorded.sets["retain"].no_losses and set(found.notes) == {"retain", "prompts"}
    without = {name: rows for name, rows in recorded.sets.items() if name != "retain"}
    check_same(Evidence({name: folder.sets[name] for name in without}), Evidence(without))
    assert recorded.sets["retain"].generations == folder.sets["retain"].generations


def _shifted(found: Json) -> Json:
    if logprobs := found["choices"][0].get("logprobs"):
        values = logprobs["token_logprobs"]
        logprobs["token_logprobs"] = [None, *values[2:], values[-1]]
    return found


def _first_token_dropped(found: Json) -> Json:
    choice = found["choices"][0]
    said = choice.get("message", choice)
    key = "content" if "message" in choice else "text"
    said[key] = said[key][1:]
    return found


def _repeats_the_prompt(found: Json) -> Json:
    choice = found["choices"][0]
    if "text" in choice:
        choice["text"] = "forget 1?" + choice["text"]
    return found


@pytest.mark.parametrize("fault", [_shifted, _first_token_dropped, _repeats_the_prompt])
def test_the_check_rejects(
    fault: Callable[[Json], Json], problem: Problem, folder: Evidence, kept: Checkpoints
) -> None:
    with serving(Tiny(problem.model, problem.tokenizer, fault=fault)) as url:
        some = {"forget": problem.splits["forget"]}
        found = asked(problem, kept, url, no_losses="").record(some, SILENT, Rows.generating)
    with pytest.raises(AssertionError):
        check_same(Evidence({"forget": folder.sets["forget"]}), found)


def test_samples_that_no_text_stands_for_are_left_out(problem: Problem, kept: Checkpoints) -> None:
    half = Window(1, (0, 130, 70), (False, True, True))  # a byte that begins a letter, and no other after it
    rows = problem.splits["forget"].rows[:2]
    split = Split("samples", rows, (replace(problem.splits["forget"].windows[0], row=0), half))
    with serving(Tiny(problem.model, problem.tokenizer, ids=False)) as url:
        found = asking.askable(asked(problem, kept, url).served, split)
        assert found is not None and found.rows == rows[:1] and len(found.windows) == 1
        assert asking.askable(asked(problem, kept, url).served, split.of([1], "samples")) is None
    with serving(Tiny(problem.model, problem.tokenizer)) as url:
        assert asking.askable(asked(problem, kept, url).served, split) == split


def test_prompts_that_are_cut_are_refused(problem: Problem, kept: Checkpoints) -> None:
    def cut(found: Json) -> Json:
        found["usage"]["prompt_tokens"] = min(20, found["usage"]["prompt_tokens"])
        return found

    tiny = Tiny(problem.model, problem.tokenizer)
    with serving(tiny) as url:
        found = asked(problem, kept, url, no_losses="none")
        tiny.fault = cut
        long = {"retain": problem.splits["retain"].of([6], "retain")}
        with pytest.raises(ExpungeError, match=r"retain, row 30: the server read 20 of \d+ tokens.*--context"):
            found.record(long, SILENT, replace(Rows.generating, tokens=1))


def test_an_interrupted_run_asks_the_rest_only(problem: Problem, folder: Evidence, kept: Checkpoints) -> None:
    tiny = Tiny(problem.model, problem.tokenizer)
    with serving(tiny) as url:
        first = asked(problem, kept, url)
        first.record({"forget": problem.splits["forget"]}, SILENT, Rows.generating)
        tiny.asked.clear()
        both = {name: problem.splits[name] for name in ("forget", "judging")}
        again = asked(problem, kept, url).record(both, SILENT, Rows.generating)
        sent = str(tiny.asked)
    check_same(Evidence({name: folder.sets[name] for name in both}), again)
    assert "judging 1" in sent and "forget 1" not in sent


def test_attacks_that_only_ask_read_the_same(
    problem: Problem, kept: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expunge.attacks.sampling.SAMPLES", 2)
    monkeypatch.setattr("expunge.attacks.sampling.TRIES", 1)
    chosen = attacked.attacks("audit", weights=False)
    assert set(chosen) == {"sampling", "prefix", "context", "few_shot", "paraphrase"}
    monkeypatch.setattr("expunge.attacks.paraphrase.WAYS", {"politely": WAYS["politely"]})
    splits = {name: problem.splits[name] for name in ("forget", "retain")}
    splits["judging"] = problem.splits["judging"].of([0, 2], "judging")
    own = attacked.run(problem, splits, "audit", lambda: problem, weights=False)
    with serving(Tiny(problem.model, problem.tokenizer)) as url:
        found = asked(problem, kept, url).attack(splits, "audit")
    assert {name: len(one) for name, one in own.items()} == {name: len(one) for name, one in found.items()}
    for name in set(chosen) - {"sampling"}:  # samples hang on how they are batched
        for one, two in zip(own[name], found[name], strict=True):
            assert one.setting == two.setting
            for where, seen in one.seen.items():
                for figure in FIGURES:
                    same = np.allclose(seen.figure(figure), two.seen[where].figure(figure), atol=1e-5, equal_nan=True)
                    assert same, (name, one.setting, where, figure)


# Verdicts


def rows(count: int, loss: float, said: str, no_losses: str = "") -> SetEvidence:
    """Answers "word 0", ...; `said` has {n} for the own number."""
    around = loss + np.random.default_rng(count).normal(0, 0.1 * loss, count)
    spread = np.full(count, np.nan) if no_losses else around
    return SetEvidence(
        kinds=("answer",) * count,
        tasks=("",) * count,
        loss=spread,
        targets=np.full(count, 3.0),
        token_loss=np.empty(0) if no_losses else np.repeat(spread, 3),
        references=tuple(f"word {n}" for n in range(count)),
        generations=tuple(said.format(n=n) for n in range(count)),
        shapes=np.zeros((count, 2)),
        no_losses=no_losses,
    )


def models(forget: str, retain: str, why: str = "none given") -> Mapping[str, Evidence]:
    told, hidden = "word {n}", "other {n}"
    before = {"forget": rows(30, 0.1, told), "judging": rows(40, 5.0, hidden), "retain": rows(30, 0.1, told)}
    after = {
        "forget": rows(30, 5.0, forget, why),
        "judging": rows(40, 5.0, hidden, why),
        "retain": rows(30, 0.1, retain, why),
    }
    return {"original": Evidence(before), "unlearned": Evidence(after)}


def judged(found: Mapping[str, Evidence]) -> tuple[str, str]:
    one = verdict.judge(found["original"], found["unlearned"])
    assert one.passes == ((one.forget, one.rest) == ("forgotten", "kept"))
    return one.forget, one.rest


def test_answers_alone_show_what_is_bad_and_nothing_that_is_good() -> None:
    assert judged(models("other {n}", "word {n}", why="")) == ("forgotten", "kept")
    assert judged(models("other {n}", "word {n}")) == ("cannot tell", "cannot tell")
    assert judged(models("word {n}", "word {n}")) == ("not forgotten", "cannot tell")
    assert judged(models("other {n}", "other {n}")) == ("cannot tell", "collapsed")
    found = verdict.judge(*models("other {n}", "word {n}").values())
    assert "none given" in found.rows[0].reason and "none given" in found.rest_reasons[-1]


def test_losses_of_some_sets_alone_are_not_enough() -> None:
    found = models("other {n}", "word {n}", why="")
    unlearned = found["unlearned"]
    for name in ("judging", "retain"):
        sets = unlearned.sets | {name: replace(unlearned.sets[name], no_losses="none given")}  # type: ignore[operator]
        one = verdict.judge(found["original"], Evidence(sets))
        assert not one.passes and one.rest == "cannot tell"
        assert (one.forget == "forgotten") == (name == "retain")


@pytest.mark.parametrize(
    ("said", "loss", "alike"), [("word {n}", 0.1, True), ("word {n}", 0.2, False), ("word{n}.", 0.1, False)]
)
def test_beside_the_folder(said: str, loss: float, alike: bool) -> None:
    folder = Evidence({"retain": rows(10, 0.1, "word {n}")})
    found = asking.beside(folder, Evidence({"retain": rows(10, loss, said), "forget": rows(9, 9.0, "-")}))
    assert found.alike == alike and found.answers == 10 and found.loss_apart
    assert found.loss_apart.most == pytest.approx(loss - 0.1, abs=0.03)
    tie = replace(rows(10, 0.1, "word {n}"), generations=("else", *(f"word {n}" for n in range(1, 10))))
    assert asking.beside(folder, Evidence({"retain": tie})).alike  # losses tell that it is one
    silent = replace(tie, no_losses="none given", token_loss=np.empty(0))
    assert not asking.beside(folder, Evidence({"retain": silent})).alike
    without = asking.beside(folder, Evidence({"retain": rows(10, 0.1, "word {n}", "none given")}))
    assert without.alike and without.loss_apart is None and "not known" in asking.told(without)
