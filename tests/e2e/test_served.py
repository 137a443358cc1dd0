"""`expunge evaluate --endpoint` from the front door: the verdict of the folder, without losses none that is good."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from transformers import AutoModelForCausalLM, AutoTokenizer

import expunge
from e2e import little
from expunge.cli.command_line import main
from expunge.errors import InputError
from expunge.model.endpoint import KEY
from leaks import needles, search
from openai_server import Tiny, serving
from problems import write_model

SECRET = "sk-very-secret-1234"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("inputs")
    write_model(folder / "other", width=16, layers=1, seed=5, tie_word_embeddings=False)
    return little.write_all(folder)


@pytest.fixture(scope="module")
def other(inputs: dict[str, Any]) -> Path:
    """A folder that was unlearned, say."""
    return Path(inputs["model"]).with_name("other")


@pytest.fixture
def tiny(other: Path) -> Tiny:
    return Tiny(AutoModelForCausalLM.from_pretrained(other).eval(), AutoTokenizer.from_pretrained(other))


def judged(output: Path, **settings: Any) -> Any:
    said: list[str] = []
    run = expunge.evaluate(output=output, say=said.append, **settings)
    schema = json.loads((resources.files("expunge.records") / "record.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(json.loads((output / "record.json").read_text("utf-8")))
    return run, "\n".join(said)


def words(run: Any) -> list[str]:
    return [run.verdict.forget, run.verdict.rest, *(row.verdict for row in run.rows)]


def test_what_is_served_is_what_is_judged(inputs: dict[str, Any], other: Path, tiny: Tiny, tmp_path: Path) -> None:
    with serving(tiny) as url:
        run, said = judged(tmp_path / "served", endpoint=url, unlearned=other, **inputs)
    block = run.record.answered
    assert (block.model, block.prompts, block.log_probabilities) == ("tiny", "token ids", "given")
    besides = block.beside_the_folder
    assert besides.alike and besides.same_answers == besides.answers == 12
    assert besides.loss_apart.most < 1e-4 and "served and delivered agree" in said
    assert f"is sent to {url} (model tiny)" in said
    page = (tmp_path / "served" / "report.md").read_text("utf-8")
    assert "The served model" in page and any("needs the weights" in limit for limit in run.record.limits)
    assert url in [one.where for one in run.record.holders]


def test_without_log_probabilities_nothing_good_is_said(inputs: dict[str, Any], tiny: Tiny, tmp_path: Path) -> None:
    tiny.ids = tiny.logprobs = False
    with serving(tiny) as url:
        run, said = judged(tmp_path / "out", endpoint=url, unlearned=inputs["model"], **inputs)
    assert set(words(run)) == {"cannot tell"} and not run.passes
    shown = {score.metric for score in run.record.scores if score.model == "unlearned"}
    assert "knowledge" in shown
    assert not shown & {"loss", "loss_attack", "perplexity", "tpr_at_low_fpr", "retain_kl"}
    assert "log-probabilities: the server gives no" in said and "served and delivered differ" in said
    assert any("No losses of the unlearned model" in limit for limit in run.record.limits)
    assert any("not what was delivered" in limit for limit in run.record.limits)
    assert all(row.loss["unlearned"] is None for row in run.rows)


def test_the_key_and_the_rows_stand_nowhere(
    inputs: dict[str, Any],
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny.key, tiny.logprobs = SECRET, False
    arguments = ["evaluate", *(part for name, value in inputs.items() for part in (f"--{name}", value))]
    with serving(tiny) as url:
        monkeypatch.setenv(KEY, SECRET)
        code = main([*arguments, "--endpoint", url, "--output", str(tmp_path / "out")])
        monkeypatch.setenv(KEY, SECRET + "5")
        refused = main([*arguments, "--endpoint", url, "--output", str(tmp_path / "no")])
    assert (code, refused) == (3, 2) and not (tmp_path / "no").exists()
    seen = capsys.readouterr()
    assert SECRET not in seen.out + seen.err and KEY in seen.err and len(seen.err.splitlines()) == 1
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert files and not any(SECRET.encode() in file.read_bytes() for file in files)
    rows = [json.loads(line) for line in Path(inputs["forget"]).read_text("utf-8").splitlines()]
    wanted = needles(f"{row['prompt']} {row['completion']}" for row in rows)
    assert wanted.runs and search(wanted, [tmp_path / "out"], {"out": seen.out}) == []


def test_wrong_input_is_refused_before_the_original_is_loaded(
    inputs: dict[str, Any], other: Path, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expunge.pipeline.assemble", lambda *_: pytest.fail("the original was loaded"))
    with serving(tiny) as url:
        wrong: dict[str, dict[str, Any]] = {
            "no model 'big' there. It offers: tiny": {"endpoint": url, "served_model": "big"},
            "ends in /v1": {"endpoint": url.removesuffix("/v1")},
            "endpoint-in-clear": {"endpoint": "http://8.8.8.8/v1"},
            "--mmlu": {"endpoint": url, "mmlu": "zero-shot"},
            "or --endpoint": {},
            "--endpoint URL": {"served_model": "tiny", "unlearned": other},
        }
        for said, given in wrong.items():
            with pytest.raises(InputError, match=said):
                judged(tmp_path / "out", **inputs, **given)
    assert not (tmp_path / "out").exists()
