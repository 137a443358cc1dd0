"""SimNPO, UNDIAL, AltPO, IdkDPO and chunked gradient difference: losses by hand, masks, pairs, chunks, and mistakes.

The windows and probabilities are those of `fixed`: per target 1, 2 and 3 (in log 2), means 1.5 and 3, sums 3, 3.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.comparison import variants
from expunge.config.commands import Compare, Unlearn
from expunge.data.batches import collate
from expunge.data.rows import Row
from expunge.data.tokens import Window
from expunge.errors import InputError
from expunge.intake.sets import check
from expunge.method import Descend, State, flattened
from expunge.methods.alt_po import AltPO
from expunge.methods.chunked_difference import ChunkedDifference
from expunge.methods.idk_dpo import REFUSALS, IdkDPO
from expunge.methods.sim_npo import SimNPO
from expunge.methods.undial import UNDIAL, lowered
from expunge.model.losses import target_ids, target_logits
from expunge.problem import Problem, Split
from expunge.reference import preference
from expunge.reference.preference import AVOIDED, PREFERRED
from methods.fixed import LOG2, WINDOWS, Fixed, batch, check_only_targets, problem
from problems import mixed, problem_of, rows_of, short, split_of, write_model

ROWS = tuple(Row("rows", line, "answer", "", "") for line in range(2))


# SimNPO


def sim_npo(split: str, given: Problem | None = None, **options: float) -> Tensor:
    total = SimNPO(**options).loss(given or problem(), State(), batch(split)).total
    return total if given else total.detach()


def test_sim_npo_goes_by_losses_per_token() -> None:
    """beta 1: 2 mean(log(1 + 2^-1.5), log(1 + 2^-3)) = log((1 + 2^-1.5)(1 + 1/8)), halved by its weight."""
    value = float(sim_npo("forget", beta=1.0, forget_weight=0.5))
    assert value == pytest.approx(0.5 * math.log((1 + 2**-1.5) * (1 + 1 / 8)))
    summed = 0.5 * math.log((1 + 2**-3) * (1 + 1 / 8))  # of whole rows, as NPO has it
    turned = 0.5 * math.log((1 + 2**1.5) * (1 + 8))  # the sign of the loss turned
    assert min(abs(value - wrong) for wrong in (summed, turned)) > 0.05


def test_sim_npo_s_margin_stands_beside_beta_times_the_loss() -> None:
    """beta 2, margin log 2: mean(log(1 + 2^(1 - 3)), log(1 + 2^(1 - 6))), for beta times the losses are 3 and 6."""
    value = float(sim_npo("forget", beta=2.0, margin=LOG2, forget_weight=1.0))
    assert value == pytest.approx(math.log((1 + 2**-2) * (1 + 2**-5)) / 2)
    inside = math.log((1 + 2**-1) * (1 + 2**-4)) / 2  # beta (L - margin), as the released code has it
    assert abs(value - inside) > 0.05
    assert float(sim_npo("retain", forget_weight=9.0)) == pytest.approx(2.25 * LOG2)


# UNDIAL


def uniform() -> Problem:
    """An original that predicts all four tokens alike, with the forget rows."""
    flat = [[(0.25,) * 4] * 3] * 2
    return problem_of(Fixed(flat), {"forget": Split("forget", ROWS, WINDOWS)})


def undial(given: Problem) -> Tensor:
    method = UNDIAL(strength=LOG2)
    total: Tensor = method.loss(given, method.init(uniform()), batch("forget")).total
    return total


def test_undial_distils_the_original_with_the_true_logit_lowered() -> None:
    """Lowered by log 2, the true token has 1/7 and the others 2/7 each.

    In log 2, sum q log q = 6/7 - log2 7; -sum q log p is (6 + 1 + 6 + 4)/7 and (2 + 6 + 2 + 6)/7 for A's targets and
    (2 + 4 + 6 + 3)/7 for B's. So the KL is 23/7, 22/7 and 21/7 less log2 7: over windows (22.5 + 21)/14 less log2 7.
    """
    value = float(undial(problem()).detach())
    assert value == pytest.approx((43.5 / 14 - math.log2(7)) * LOG2, rel=1e-5)
    over_tokens = (22 / 7 - math.log2(7)) * LOG2
    unlowered = (43 / 16 - 2) * LOG2  # the original as it is: 9/4, 9/4 and 9/4, each less 2
    assert min(abs(value - wrong) for wrong in (over_tokens, unlowered)) > 0.01


def test_undial_s_target_is_a_distribution_where_the_row_is_memorised() -> None:
    """p_y = 1 in float32: e^-10 (1) against e^-20 each for three others, so the target is all but 1e-4 at y."""
    logits = torch.tensor([[20.0, 0.0, 0.0, 0.0]])
    found = lowered(logits, torch.tensor([0]), 10.0).softmax(dim=1)[0]
    assert found.sum() == pytest.approx(1.0)
    assert float(found[1]) == pytest.approx(math.exp(-10) / (1 + 3 * math.exp(-10)), rel=1e-5)
    assert torch.equal(lowered(logits, torch.tensor([0]), 30.0).argmax(dim=1) == 0, torch.tensor([False]))


def everywhere(given: Problem) -> Tensor:
    """UNDIAL as others wrote it: the mean over all places, where what is no target counts too."""
    logits = given.model(input_ids=batch("forget").ids).logits
    target = lowered(torch.zeros(6, 4), batch("forget").ids.roll(-1, dims=1).flatten(), LOG2).softmax(dim=1)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), target)


# Preferences


def pair_problem(noise: tuple[float, ...] = (0.97, 0.01, 0.01, 0.01)) -> Problem:
    """Beside A = 0 1* 2* stands 0 0* 0*, beside B = 0 3* stands 0 0*: probabilities 1/8 and 1/2, and 1/2."""
    others = (Window(0, (0, 0, 0), (False, True, True)), Window(1, (0, 0), (False, True)))
    splits = {AVOIDED: Split(AVOIDED, ROWS, WINDOWS), PREFERRED: Split(PREFERRED, ROWS, others)}
    return replace(problem(noise), splits=splits)


def originals() -> State:
    return State(caches={AVOIDED: torch.tensor([-1.0, -3.0]) * LOG2, PREFERRED: torch.tensor([-2.0, -2.0]) * LOG2})


def preferring(method: Any, given: Problem) -> Tensor:
    total: Tensor = method.loss(given, originals(), batch(AVOIDED)).total
    return total


@pytest.mark.parametrize("method", [AltPO(beta=1.0), IdkDPO(beta=1.0)])
def test_the_preference_loss(method: Any) -> None:
    """Log-ratios of the rows -3 + 1 = -2 and -3 + 3 = 0, of the other answers -4 + 2 = -2 and -1 + 2 = 1 (log 2).

    beta 1: 2 mean(log(1 + 2^(-2 + 2)), log(1 + 2^(0 - 1))) = log 2 + log 3/2 = log 3.
    """
    value = float(preferring(method, pair_problem()).detach())
    assert value == pytest.approx(math.log(3), rel=1e-6)
    alone = math.log(5 / 2)  # NPO: nothing is preferred
    swapped = math.log(6)  # the answers exchanged
    per_token = math.log((1 + 2 ** (-1 + 1)) * (1 + 2**-1)) - math.log((1 + 2**-0.5) * 1.5) / 2
    assert min(abs(value - wrong) for wrong in (alone, swapped, per_token)) > 0.1
    assert method.loss(problem(), State(), batch("retain")).total.item() == pytest.approx(2.25 * LOG2)


def with_noise(loss: Callable[[Problem], Tensor]) -> Callable[[Problem], Tensor]:
    """The loss of pairs on the probabilities of the problem that is given."""
    return lambda given: loss(replace(given, splits=pair_problem().splits))


@pytest.mark.parametrize(
    "loss",
    [
        lambda given: sim_npo("forget", given),
        undial,
        with_noise(lambda given: preferring(AltPO(beta=1.0), given)),
        lambda given: ChunkedDifference().loss(given, State(), batch("forget 1")).total,
    ],
)
def test_neither_prompts_nor_padding_count(loss: Callable[[Problem], Tensor]) -> None:
    check_only_targets(loss)


def prompts_too(given: Problem) -> Tensor:
    """SimNPO with every token of a row a target."""
    whole = collate("forget", [replace(one, counted=(False, True, True)[: len(one.ids)]) for one in WINDOWS], [0, 1])
    return SimNPO().loss(given, State(), replace(whole, counted=whole.counted.roll(1, dims=1))).total


@pytest.mark.parametrize("broken", [everywhere, prompts_too])
def test_losses_that_count_other_places_are_seen(broken: Callable[[Problem], Tensor]) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        check_only_targets(broken)


def test_pairs_take_their_turns() -> None:
    """Rows with an even line have one other answer, the others two: all the first ones come before the second ones."""
    made = mixed()
    forget = made.splits["forget"]
    splits = preference.pairs(made, lambda row: row.alternates)
    avoided, preferred = splits[AVOIDED], splits[PREFERRED]
    lines = [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    assert [row.line for row in avoided.rows] == [*lines, 1, 3, 5, 7, 1]
    assert {row.completion for row in preferred.rows[:10]} == {"not that"}
    assert {row.completion for row in preferred.rows[10:]} == {"7"}
    assert [one.ids for one in avoided.windows[:10]] == [one.ids for one in forget.windows]
    for pair, (lost, won) in enumerate(zip(avoided.windows, preferred.windows, strict=True)):
        prompt = lost.counted.index(True)
        assert lost.row == won.row == pair
        assert lost.ids[:prompt] == won.ids[:prompt] and lost.ids != won.ids
        assert preferred.rows[pair].prompt == avoided.rows[pair].prompt


def test_a_long_row_makes_several_pairs_with_the_first_window_of_its_answer() -> None:
    made = mixed()
    row = Row("long", 1, "answer", "who?", "a" * 100, alternates=("b" * 90,))
    long = replace(made, splits=dict(made.splits) | {"forget": split(made, (row,))})
    splits = preference.pairs(long, lambda row: row.alternates)
    assert len(splits[AVOIDED].windows) == len(long.splits["forget"].windows) > 1
    assert len(set(splits[PREFERRED].windows)) == 1


def split(made: Problem, rows: tuple[Row, ...]) -> Split:
    from expunge.data.tokens import encode

    return Split("forget", rows, tuple(encode(rows, made.rendering, made.tokenizer)))


def test_the_original_s_likelihoods_stand_at_their_pairs() -> None:
    made = mixed()
    made = replace(made, splits={**made.splits, **preference.pairs(made, lambda row: row.alternates)})
    state = preference.likelihoods(made)
    for name in (AVOIDED, PREFERRED):
        windows = made.splits[name].windows
        for place in (0, 3, 12):
            one = collate(name, windows, [place])
            with torch.no_grad():
                expected = -torch.nn.functional.cross_entropy(
                    target_logits(made.model, one), target_ids(one), reduction="sum"
                )
            assert float(state.caches[name][place]) == pytest.approx(float(expected), rel=1e-4)


def test_a_conversation_is_answered_otherwise_in_its_last_turn() -> None:
    turns = (("user", "who?"), ("assistant", "Ann"), ("user", "where?"), ("assistant", "Rome"))
    found = preference.answered(Row("talk", 1, "answer", "", "Rome", messages=turns), "Oslo")
    assert found.messages == (*turns[:-1], ("assistant", "Oslo")) and found.completion == "Oslo"


def test_each_row_keeps_its_refusal() -> None:
    rows = rows_of("forget", [str(n) for n in range(60)])
    found = [IdkDPO().refusal(row)[0] for row in rows]
    assert found == [IdkDPO().refusal(row)[0] for row in rows]
    assert set(found) <= set(REFUSALS) and len(set(found)) > 6
    assert IdkDPO(refusals=("Nein.",)).refusal(rows[0]) == ("Nein.",)


# Chunks


def test_the_loss_of_a_step_is_the_mean_over_its_rows() -> None:
    """One forget row and seven retain rows: (-L_f + 0.5 (7 L_r)) / 8 with both means 2.25."""
    method = ChunkedDifference()
    found = [method.loss(problem(), State(), batch(name)).total.item() for name in ("forget 3", "retain 3")]
    assert found == pytest.approx([-2.25 * LOG2 / 8, 0.5 * 7 * 2.25 * LOG2 / 8])
    assert found[1] != pytest.approx(0.5 * 2.25 * LOG2 / 8)  # as though there were one retain row


def test_chunks_take_retain_rows_in_turn() -> None:
    """Five rows in twos; of seven retain rows 4, 4 and 2 in turn."""
    made = problem_of(short_model(), {"forget": split_of("forget", (1, 2, 1, 1, 1)), "retain": [1] * 7})
    method = ChunkedDifference(chunk_rows=2, retain_rows=2, epochs=3)
    splits = method.chunks(made)
    assert [[row.line for row in splits[f"forget {n}"].rows] for n in (1, 2, 3)] == [[0, 1], [2, 3], [4]]
    assert [[row.line for row in splits[f"retain {n}"].rows] for n in (1, 2, 3)] == [[0, 1, 2, 3], [0, 4, 5, 6], [1, 2]]
    phases = flattened(method.phases(replace(made, splits={**made.splits, **splits}), State()))
    assert [phase.steps for phase in phases if isinstance(phase, Descend)] == [9, 6, 3]  # three windows in the first
    assert [dict(phase.draws) for phase in phases if isinstance(phase, Descend)][1] == {"forget 2": 1, "retain 2": 2}


def short_model() -> Any:
    return Fixed([[(0.25,) * 4]])


def test_the_last_quarter_of_the_layers_moves() -> None:
    moved = ChunkedDifference().moved
    assert list(moved(32)) == list(range(24, 32)) and list(moved(2)) == [1] and list(moved(1)) == [0]


# Rows that lack what a method needs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("given")
    write_model(made / "model", width=16, layers=2)
    with_answer = {"prompt": "who?", "completion": "Ann", "alternate": ["Bo", "Cy"]}
    files = {
        "good": [with_answer, {"prompt": "where?", "completion": "Rome", "alternate": "Oslo"}],
        "plain": [with_answer, {"prompt": "where?", "completion": "Rome"}],
        "document": [with_answer, {"text": "Ann lives in Rome.", "alternate": "Bo lives in Oslo."}],
        "retain": [{"prompt": f"{n}?", "completion": "yes"} for n in range(4)],
    }
    for name, rows in files.items():
        (made / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return made


def unlearn(folder: Path, forget: str) -> Unlearn:
    return Unlearn(model=str(folder / "model"), forget=str(folder / f"{forget}.jsonl"))


def test_rows_that_have_what_is_needed_pass(folder: Path) -> None:
    for method, forget in ((AltPO(), "good"), (AltPO(), "document"), (IdkDPO(), "good"), (IdkDPO(), "plain")):
        assert len(check(unlearn(folder, forget), method.needs).forget) == 2


@pytest.mark.parametrize(
    ("method", "forget", "words"),
    [
        (AltPO(), "plain", ("plain.jsonl, line 2", "another answer (column 'alternate')")),
        (IdkDPO(), "document", ("document.jsonl, line 2", "a question")),
    ],
)
def test_rows_that_lack_it_are_refused_before_loading(
    folder: Path, method: Any, forget: str, words: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as caught:
        check(unlearn(folder, forget), method.needs)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and "Rome" not in message


def test_a_comparison_of_all_methods_leaves_out_those_that_do_not_fit(folder: Path) -> None:
    config = Compare(
        model=str(folder / "model"), forget=str(folder / "plain.jsonl"), retain=str(folder / "retain.jsonl")
    )
    said: list[str] = []
    chosen, checked = variants.fitting(config, variants.variants(config), said.append)
    names = {variant.label for variant in chosen}
    assert {"npo", "idk_dpo"} <= names and "alt_po" not in names and len(checked.forget) == 2
    assert any(line.startswith("alt_po: left out, it needs another answer") for line in said)
    named = replace(config, methods=("alt_po",))
    with pytest.raises(InputError, match="another answer"):
        variants.fitting(named, variants.variants(named), said.append)


def test_short_methods_are_those_of_the_catalogue() -> None:
    assert isinstance(short("undial"), UNDIAL) and isinstance(short("sim_npo"), SimNPO)
