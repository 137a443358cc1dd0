"""The form in which rows are asked is the one that the model learned them in, or none is taken in silence."""

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.config.commands import Evaluate, Unlearn
from expunge.data.rows import read
from expunge.data.tokens import Rendering
from expunge.demo.tiny import byte_tokenizer
from expunge.errors import InputError
from expunge.intake import told
from expunge.intake.assembly import Assembled, assemble
from expunge.intake.rendering import TEMPLATE
from expunge.intake.sets import check
from expunge.loop.training import Training, fine_tune
from problems import TEXT_VOCABULARY, text_model

TURNS = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
BEGIN = "{% if add_generation_prompt %}<assistant>{% endif %}"
DATED = "{{ strftime_now('%Y-%m-%d') }}"
ROWS = [{"prompt": f"Who is {name}?", "completion": said} for name, said in (("Ada", "a baker"), ("Bo", "a smith"))]


def world(folder: Path, form: dict[str, Any], template: str | None) -> Path:
    """A model that knows two rows by heart in one form, beside their file."""
    folder.mkdir()
    (folder / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    tokenizer = byte_tokenizer([], TEXT_VOCABULARY)
    tokenizer.chat_template = template
    rows = read(folder / "forget.jsonl", "forget").rows
    training = Training(epochs=60, learning_rate=1e-2, batch_rows=2)
    model, loss = fine_tune(text_model(), tokenizer, rows, Rendering(context=64, **form), training, 0, "made")
    assert loss < 0.1
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    form = {"chat_template": True}
    return world(tmp_path_factory.mktemp("chat") / "world", form, TURNS + BEGIN)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learned with a new line between, by a tokenizer that has a template all the same."""
    return world(tmp_path_factory.mktemp("lines") / "world", {"join": "newline"}, TURNS + BEGIN)


def assembled(folder: Path, **given: Any) -> Assembled:
    config = Unlearn(model=str(folder / "model"), forget=str(folder / "forget.jsonl"), context=64, **given)
    return assemble(config, check(config))


def test_of_itself_it_takes_the_template_that_the_model_was_trained_through(chat: Path) -> None:
    found = assembled(chat)
    assert found.problem.rendering.chat_template and found.joins[TEMPLATE] < 0.1 < 1 < found.joins["space"]
    config = Unlearn(model=str(chat / "model"), forget=str(chat / "forget.jsonl"))
    assert any(line.startswith(f"join: {TEMPLATE} (") for line in told.lines(check(config), found))


def test_a_template_that_training_did_not_use_is_left_alone(lines: Path) -> None:
    rendering = assembled(lines).problem.rendering
    assert (rendering.join, rendering.chat_template) == ("newline", False)


def test_a_template_that_writes_the_date_has_it_once_it_is_taken(chat: Path, lines: Path, tmp_path: Path) -> None:
    dated = world(tmp_path / "dated", {"chat_template": True, "date": "2024-07-26"}, DATED + TURNS + BEGIN)
    found = assembled(dated, date="2024-07-26")
    assert found.problem.rendering.date == "2024-07-26" and found.joins[TEMPLATE] < 0.1
    assert any(note.startswith("date: ") for note in found.notes)
    assert assembled(lines).problem.rendering.date == "" == assembled(chat).problem.rendering.date


def test_conversations_beside_answers_keep_their_date(tmp_path: Path) -> None:
    """Where a join is taken for the answers too: the template still writes it into the others."""
    folder = world(tmp_path / "mixed", {"join": "newline"}, DATED + TURNS + BEGIN)
    talk = [{"role": "user", "content": "Who is Cy?"}, {"role": "assistant", "content": "a tailor"}]
    with (folder / "forget.jsonl").open("a", encoding="utf-8") as rows:
        rows.write(json.dumps({"messages": talk}) + "\n")
    rendering = assembled(folder, date="2024-07-26").problem.rendering
    assert (rendering.join, rendering.chat_template, rendering.date) == ("newline", False, "2024-07-26")


def test_a_template_that_refuses_the_rows_is_not_tried(tmp_path: Path) -> None:
    folder = world(tmp_path / "refusing", {"join": "newline"}, DATED + "{{ raise_exception('system first') }}")
    found = assembled(folder)
    assert found.problem.rendering.join == "newline" and TEMPLATE not in found.joins


@pytest.mark.parametrize("given", [{"join": "space"}, {"chat_template": True}])
def test_a_form_that_was_asked_for_is_refused_where_another_fits_far_better(lines: Path, given: dict[str, Any]) -> None:
    flag = "--join space" if "join" in given else "--chat-template"
    with pytest.raises(InputError, match=rf"^{flag}: .* by newline: .*Drop {flag}.*or pass --force"):
        assembled(lines, **given)
    rendering = assembled(lines, force=True, **given).problem.rendering
    assert (rendering.join, rendering.chat_template) == ("space", "chat_template" in given)


def test_evaluating_in_another_form_is_refused_too(lines: Path) -> None:
    where = {"model": str(lines / "model"), "unlearned": str(lines / "model"), "forget": str(lines / "forget.jsonl")}
    config = Evaluate(**where, join="nothing", context=64)
    with pytest.raises(InputError, match=r"Drop --join nothing, and the form that fits is taken\.$"):
        assemble(config, check(config))


def test_the_form_that_fits_may_be_asked_for(lines: Path, chat: Path) -> None:
    assert assembled(lines, join="newline").problem.rendering.join == "newline"
    assert assembled(chat, chat_template=True).problem.rendering.chat_template
