"""Wrong input through the command line: one clear message, exit code 2, no traceback, nothing written."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from expunge.cli import command_line
from expunge.cli.ending import Answer
from problems import write_model

Arguments = dict[str, str]
SECRET = "Quentin Xylander lives at 12 Hidden Lane"


@pytest.fixture
def arguments(tmp_path: Path) -> Arguments:
    """Input that is right, as flags: each case below spoils one thing."""
    write_model(tmp_path / "model", width=16, layers=1)
    for name in ("forget", "retain", "holdout"):
        rows = [{"prompt": f"{name} {n}?", "completion": f"{SECRET} {n} {name}"} for n in range(8)]
        _write(tmp_path / f"{name}.jsonl", rows)
    given = {name: str(tmp_path / f"{name}.jsonl") for name in ("forget", "retain", "holdout")}
    return {"model": str(tmp_path / "model"), "output": str(tmp_path / "out"), **given}


def missing_file(given: Arguments, folder: Path) -> list[str]:
    given["forget"] = str(folder / "nothing.jsonl")
    return ["nothing.jsonl", "does not exist"]


def broken_line(given: Arguments, folder: Path) -> list[str]:
    lines = Path(given["forget"]).read_text().splitlines()
    lines[6] = lines[6][:-1]
    Path(given["forget"]).write_text("\n".join(lines))
    return ["forget.jsonl, line 7", "not JSON"]


def wrong_columns(given: Arguments, folder: Path) -> list[str]:
    _write(Path(given["retain"]), [{"promt": "a", "completion": SECRET}])
    return ["retain.jsonl, line 1", "'promt'", "prompt + completion"]


def empty_target(given: Arguments, folder: Path) -> list[str]:
    _write(Path(given["forget"]), [{"prompt": "a", "completion": "b"}, {"prompt": SECRET, "completion": " "}])
    return ["forget.jsonl, line 2", "'completion' is empty"]


def overlap(given: Arguments, folder: Path) -> list[str]:
    given["retain"] = given["forget"]
    return ["forget.jsonl, line 1", "also in the retain set", "8 row(s)"]


def unknown_method(given: Arguments, folder: Path) -> list[str]:
    given["method"] = "loss_maching"
    return ["no method 'loss_maching'", "did you mean 'loss_matching'?"]


def output_exists(given: Arguments, folder: Path) -> list[str]:
    Path(given["output"]).mkdir()
    return ["out", "exists already"]


def output_below_a_file(given: Arguments, folder: Path) -> list[str]:
    given["output"] = str(Path(given["forget"]) / "deep" / "out")
    return ["forget.jsonl is a file"]


def no_model(given: Arguments, folder: Path) -> list[str]:
    (folder / "model" / "config.json").unlink()
    return ["no config.json", "no model folder"]


def no_tokenizer(given: Arguments, folder: Path) -> list[str]:
    for file in (folder / "model").glob("token*"):
        file.unlink()
    return ["no tokenizer"]


def pickle_weights(given: Arguments, folder: Path) -> list[str]:
    (folder / "model" / "model.safetensors").unlink()
    torch.save({}, folder / "model" / "pytorch_model.bin")
    return ["only pickle weights", "--allow-pickle"]


def adapter_without_base(given: Arguments, folder: Path) -> list[str]:
    given["model"] = str(_adapter(folder, base_model_name_or_path=str(folder / "gone")))
    return ["adapter_config.json", "gone does not exist here", "--adapter-base FOLDER"]


def adapter_that_names_no_base(given: Arguments, folder: Path) -> list[str]:
    given["model"] = str(_adapter(folder, base_model_name_or_path=None))
    return ["adapter_config.json", "no base is named", "--adapter-base FOLDER"]


def adapter_of_another_kind(given: Arguments, folder: Path) -> list[str]:
    given["model"] = str(_adapter(folder, peft_type="PREFIX_TUNING"))
    return ["adapter_config.json", "a PREFIX_TUNING adapter has no LoRA matrices", "merge_and_unload"]


def adapter_for_another_task(given: Arguments, folder: Path) -> list[str]:
    given["model"] = str(_adapter(folder, task_type="SEQ_CLS"))
    return ["adapter_config.json", "SEQ_CLS", "CAUSAL_LM"]


def adapter_as_pickle(given: Arguments, folder: Path) -> list[str]:
    given["model"] = str(_adapter(folder))
    (folder / "adapter" / "adapter_model.safetensors").rename(folder / "adapter" / "adapter_model.bin")
    return ["only pickle weights", "adapter_model.bin", "--allow-pickle"]


def adapter_without_weights(given: Arguments, folder: Path) -> list[str]:
    given["model"] = str(_adapter(folder))
    (folder / "adapter" / "adapter_model.safetensors").unlink()
    return ["the adapter has no weights (adapter_model.safetensors)"]


def adapter_over_an_adapter(given: Arguments, folder: Path) -> list[str]:
    given["model"] = str(_adapter(folder, base_model_name_or_path=str(folder / "adapter")))
    return ["is an adapter itself", "Merge that"]


def adapter_without_tokenizer(given: Arguments, folder: Path) -> list[str]:
    given["model"] = str(_adapter(folder))
    for file in (folder / "model").glob("token*"):
        file.unlink()
    return ["neither the adapter nor its base", "tokenizer"]


def adapter_with_a_second_lora(given: Arguments, folder: Path) -> list[str]:
    given |= {"model": str(_adapter(folder)), "subspace": "lora"}
    return ["--subspace lora", "the model is an adapter", "merge it into its base first"]


def whole_model_as_adapter(given: Arguments, folder: Path) -> list[str]:
    given["subspace"] = "adapter"
    return ["--subspace adapter", "the model is no adapter"]


def full_weights_as_adapter(given: Arguments, folder: Path) -> list[str]:
    given |= {"save_as": "adapter", "subspace": "full", "method": "loss_matching"}
    return ["--save-as adapter needs --subspace lora"]


def quantised_without_its_library(given: Arguments, folder: Path) -> list[str]:
    given["model"] = str(_adapter(folder))
    _quantise(folder, "gptq")
    return ["quantised by gptq", "gptqmodel is not installed", "give the unquantised model"]


def quantised_in_an_unknown_way(given: Arguments, folder: Path) -> list[str]:
    given["model"] = str(_adapter(folder))
    _quantise(folder, "made_up")
    return ["quantised by made_up", "not supported under an adapter"]


def forget_is_everything(given: Arguments, folder: Path) -> list[str]:
    given["train"] = given["forget"]
    del given["retain"]
    return ["all there is in", "nothing would be left"]


def nothing_to_compare_with(given: Arguments, folder: Path) -> list[str]:
    del given["retain"], given["holdout"]
    _write(Path(given["forget"]), [{"prompt": "a", "completion": SECRET}])
    return ["--holdout", "--base"]


def unknown_key_in_recipe(given: Arguments, folder: Path) -> list[str]:
    (folder / "recipe.yaml").write_text("retian: x.jsonl\n")
    given["recipe"] = str(folder / "recipe.yaml")
    return ["recipe.yaml", "unknown key 'retian'", "did you mean 'retain'?"]


def not_utf8(given: Arguments, folder: Path) -> list[str]:
    Path(given["forget"]).write_bytes(b'{"text": "fine"}\n{"text": "\xff\xfe"}\n')
    return ["forget.jsonl, line 2", "not UTF-8"]


CASES: list[Callable[[Arguments, Path], list[str]]] = [
    missing_file,
    broken_line,
    wrong_columns,
    empty_target,
    overlap,
    unknown_method,
    output_exists,
    output_below_a_file,
    no_model,
    no_tokenizer,
    pickle_weights,
    adapter_without_base,
    adapter_that_names_no_base,
    adapter_of_another_kind,
    adapter_for_another_task,
    adapter_as_pickle,
    adapter_without_weights,
    adapter_over_an_adapter,
    adapter_without_tokenizer,
    adapter_with_a_second_lora,
    whole_model_as_adapter,
    full_weights_as_adapter,
    quantised_without_its_library,
    quantised_in_an_unknown_way,
    forget_is_everything,
    nothing_to_compare_with,
    unknown_key_in_recipe,
    not_utf8,
]


@pytest.mark.parametrize("spoil", CASES, ids=lambda case: case.__name__)
def test_wrong_input(
    spoil: Callable[[Arguments, Path], list[str]],
    arguments: Arguments,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = spoil(arguments, tmp_path)
    before = _listing(tmp_path)
    code = command_line.main(["unlearn", *_flags(arguments)])
    shown = capsys.readouterr()
    assert code == 2, shown
    for words in expected:
        assert words in shown.err
    assert "Traceback" not in shown.err + shown.out
    assert SECRET not in shown.err + shown.out
    assert len(shown.err.strip().splitlines()) == 1
    assert _listing(tmp_path) == before


def test_no_traceback_as_a_process(arguments: Arguments, tmp_path: Path) -> None:
    broken_line(arguments, tmp_path)
    command = [sys.executable, "-m", "expunge", "unlearn", *_flags(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 2
    assert "line 7" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("shown", [False, True])
def test_words_of_errors_that_nobody_foresaw_are_left_out(
    shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They may quote rows; the places that the error came through hold code alone."""

    def fail(arguments: list[str]) -> Answer:
        raise ValueError(f"cannot make sense of {SECRET!r}")

    monkeypatch.setattr(command_line, "_run", fail)
    assert command_line.main(["unlearn", *(["--show-rows"] if shown else [])]) == 1
    told = capsys.readouterr().err
    assert (SECRET in told) == shown
    assert "test_wrong_input.py" in told and "ValueError" in told.splitlines()[-1]


def test_rows_that_are_not_in_the_model_stop_the_run(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A random model knows none of the rows: the run says so, and goes on only with --force."""
    for name in ("forget", "holdout"):
        rows = [{"prompt": f"{name} {n}?", "completion": f"{n * 7919 % 100:02d} {name[0]}"} for n in range(48)]
        _write(Path(arguments[name]), rows)
    before = _listing(tmp_path)
    assert command_line.main(["unlearn", *_flags(arguments)]) == 2
    shown = capsys.readouterr()
    assert "nothing to remove" in shown.err and "--force" in shown.err
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    shutil.rmtree(tmp_path / "cache")
    assert _listing(tmp_path) == before
    assert all(path.parent.name == "evidence" for path in kept)  # numbers of the original, for the run with --force


@pytest.mark.parametrize("argv", [["unlern"], ["unlearn", "--modle", "x"], ["list", "methds"], []])
def test_wrong_command_lines(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(argv) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from expunge.cli.command_line import main; main(['--help']); main(['unlearn', '--help']);"
        "main(['list', 'methods']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_of_a_method_shows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["unlearn", "--method", "loss_matching", "--help"]) == 0
    assert "--options.replay-texts" in capsys.readouterr().out


def _adapter(folder: Path, **settings: object) -> Path:
    """An adapter's folder over the model; its weights are never read where one of these cases is found out."""
    (folder / "adapter").mkdir()
    usual = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(folder / "model")}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(usual | settings))
    save_file({"base_model.model.x.lora_A.weight": torch.zeros(1, 1)}, folder / "adapter" / "adapter_model.safetensors")
    return folder / "adapter"


def _quantise(folder: Path, method: str) -> None:
    file = folder / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": method}}))


def _write(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _flags(arguments: Arguments) -> list[str]:
    return [part for name, value in arguments.items() for part in (f"--{name}", value)]


def _listing(folder: Path) -> list[str]:
    """Everything below a folder but the configuration (the key for row hashes is the user's, not the run's)."""
    return sorted(str(path) for path in folder.rglob("*") if not path.is_relative_to(folder / "config"))
