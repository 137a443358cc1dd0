"""Model folders that somebody else made: no pickle, no code, nothing outside the folder, unless a flag says so."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.config.flags import Trust
from expunge.data.rows import read
from expunge.errors import InputError
from expunge.files.reading import check_inside
from expunge.model import load, stored
from expunge.model.adapter import Adapter
from expunge.model.source import Source
from expunge.planning.preview import subspace_plan

CPU = torch.device("cpu")
INDEX = "model.safetensors.index.json"


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.file),))


@pytest.fixture
def folder(saved_llama: Path, tmp_path: Path) -> Path:
    """A copy of a model folder, to break."""
    return Path(shutil.copytree(saved_llama, tmp_path / "model"))


def settings(folder: Path, name: str = "config.json", **values: Any) -> None:
    file = folder / name
    given = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(given | values))


def shards(folder: Path, *names: Any) -> None:
    settings(folder, INDEX, metadata={}, weight_map={f"w{place}": name for place, name in enumerate(names)})


def outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to("../elsewhere.safetensors")


def as_pipe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "shard above": (lambda folder: shards(folder, "../elsewhere.safetensors"), "outside its folder"),
    "shard anywhere": (lambda folder: shards(folder, "model.safetensors", "/elsewhere.safetensors"), "outside"),
    "shard is no name": (lambda folder: shards(folder, ["model.safetensors"]), "outside its folder"),
    "shard as pickle": (lambda folder: shards(folder, "pytorch_model.bin"), "pickle.*--allow-pickle"),
    "index without a map": (lambda folder: settings(folder, INDEX, weight_map=5), "no weight_map"),
    "index broken": (lambda folder: (folder / INDEX).write_text("{") and None, "line 1: the file of settings"),
    "index deep": (lambda folder: (folder / INDEX).write_text("[" * 9999) and None, "nested too deeply"),
    "link": (outside, "link that leads out"),
    "pipe": (as_pipe, "it is a pipe"),
    "config deep": (lambda folder: (folder / "config.json").write_text("[" * 9999) and None, "nested too deeply"),
    "config twice": (lambda folder: (folder / "config.json").write_text('{"a": 1, "a": 2}') and None, "stands twice"),
    "quantised by a text": (lambda folder: settings(folder, quantization_config="x"), "an unnamed scheme"),
    "own code": (
        lambda folder: settings(folder, model_type="own", auto_map={"AutoModelForCausalLM": "own.Own"}),
        "pass --trust-remote-code",
    ),
}


def check_refused(look: Callable[[str], Any], case: str, folder: Path) -> None:
    spoil, words = WRONG[case]
    look(str(folder))
    spoil(folder)
    with pytest.raises(InputError, match=words) as caught:
        look(str(folder))
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("case", WRONG)
def test_refused_before_weights_are_read(case: str, folder: Path) -> None:
    check_refused(lambda path: load.check(path, "model"), case, folder)


@pytest.mark.parametrize("case", ["shard above", "shard as pickle", "link"])
def test_the_check_rejects_a_look_at_weights_that_is_left_out(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_check_weights", lambda folder, pickle: None)
    monkeypatch.setattr(stored, "files", lambda folder: [folder / "model.safetensors"])
    monkeypatch.setattr(stored, "check", lambda folder: None)
    with pytest.raises(pytest.fail.Exception):
        check_refused(lambda path: load.check(path, "model"), case, folder)


def test_links_of_the_hub_cache_are_let_through(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for place, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, blobs / str(place))
        (snapshot / file.name).symlink_to(f"../../blobs/{place}")
    load.check(str(snapshot), "model")
    assert load.load_model(str(snapshot), torch.float32, CPU)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(folder / "model.safetensors")
    with pytest.raises(InputError, match="link that leads out"):
        load.check(str(snapshot), "model")


def test_inside_is_not_a_matter_of_how_a_path_begins(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model-2").mkdir()
    (tmp_path / "model-2" / "x").touch()
    (tmp_path / "model" / "x").symlink_to("../model-2/x")
    with pytest.raises(InputError):
        check_inside(tmp_path / "model" / "x", tmp_path / "model", "x")
    check_inside(tmp_path / "model-2" / "x", tmp_path / "model-2", "x")


def test_no_pickle_runs(folder: Path, tmp_path: Path) -> None:
    """Neither as weights nor as a shard, with the flag neither: torch then reads tensors and nothing else."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol=2))
    for trust in (Trust(), Trust(allow_pickle=True)):
        with pytest.raises(InputError, match="cannot be loaded"):
            load.load_model(str(folder), torch.float32, CPU, trust)
    with pytest.raises(InputError, match="--allow-pickle"):
        load.check(str(folder), "model")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran"), protocol=2))
    assert (tmp_path / "ran").exists()  # the payload works


@pytest.mark.parametrize("family", ["own", "llama"])
def test_no_code_of_a_model_runs_without_the_flag(
    folder: Path, tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a known family the library's own class is taken; of another one the model is refused."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    names = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    settings(folder, model_type=family, auto_map=names)
    settings(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Slow", "own.Fast"]})
    try:
        model = load.load_model(str(folder), torch.float32, CPU)
        assert family == "llama" and type(model).__name__ == "LlamaForCausalLM"
        load.load_tokenizer(str(folder))
    except InputError as error:
        assert str(folder) in str(error)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(InputError):
        load.load_model(str(folder), torch.float32, CPU, Trust(trust_remote_code=True))
    assert (tmp_path / "ran").exists()  # with the flag it runs, so the rest of this test means something


def test_an_adapter_with_odd_settings_is_refused(tmp_path: Path, folder: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings(adapter, "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(folder), r={"a": [1]})
    (adapter / "adapter_model.safetensors").symlink_to("../model/model.safetensors")
    with pytest.raises(InputError, match="link that leads out"):
        load.check(str(adapter), "model")
    found = Adapter(adapter, {}, str(folder))
    settings(adapter, "adapter_config.json", target_modules=5)
    with pytest.raises(InputError, match="peft refuses its settings"):
        subspace_plan(Source.of(str(folder)).config, "auto", CPU, False, found)


def test_a_data_set_names_no_file_outside_its_folder(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list([{"text": "a"}]).save_to_disk(tmp_path / "rows")
    file = next((tmp_path / "rows").glob("*.arrow"))
    file.rename(tmp_path / "elsewhere.arrow")
    file.symlink_to("../elsewhere.arrow")
    with pytest.raises(InputError, match="link that leads out"):
        read(tmp_path / "rows", "forget")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InputError, match="it is a pipe"):
        read(tmp_path / "rows", "forget")
