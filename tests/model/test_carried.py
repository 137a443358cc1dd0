"""What is written serves where the input served: all that did not change is there as it came, byte for byte."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from expunge.config.flags import Trust
from expunge.errors import InputError
from expunge.model import load, rewritten, save
from expunge.model.rewritten import Unheld
from expunge.model.source import Source
from problems import seeded

CPU = torch.device("cpu")
SINGLE = "model.safetensors"
NORM, EMBEDDINGS = "model.norm.weight", "model.embed_tokens.weight"
OLD = {"rope_theta": 10000.0, "torch_dtype": "float32", "transformers_version": "4.46.0"}
TOKENIZER = {"model_max_length": 96, "tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left"}
TOKENIZER |= {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ messages }}", "add_bos_token": True}
AS_CAME = ("config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "generation_config.json")
AS_CAME += ("special_tokens_map.json", "LICENSE", "additional_chat_templates/tools.jinja")


@pytest.fixture
def folder(saved_llama: Path, tmp_path: Path) -> Path:
    """A model folder as version 4 wrote it, with more beside it than weights."""
    made = Path(shutil.copytree(saved_llama, tmp_path / "model"))
    config = json.loads((made / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in ("rope_parameters", "dtype")} | OLD
    (made / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (made / "tokenizer_config.json").write_text(json.dumps(TOKENIZER), encoding="utf-8")
    (made / "generation_config.json").write_text('{"temperature": 0.6, "do_sample": true}', encoding="utf-8")
    for name in ("tokenizer.model", "special_tokens_map.json", "LICENSE", "train.jsonl", "optimizer.pt", "own.py"):
        (made / name).write_text("{}", encoding="utf-8")
    (made / "additional_chat_templates").mkdir()
    (made / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}", encoding="utf-8")
    return made


def written(
    folder: Path,
    dtype: torch.dtype | None = None,
    change: Callable[[Any], Any] = lambda model: None,
    copy: bool = True,
) -> tuple[Path, save.Shipped]:
    """The folder loaded, changed and written anew; the broken variant copies nothing."""
    model, tokenizer = load.load_model(str(folder), torch.float32, CPU), load.load_tokenizer(str(folder))
    with torch.no_grad():
        change(model)
    out = folder.parent / "out"
    out.mkdir()
    return out, save.write(model, tokenizer, out, dtype, Source.of(str(folder)).origin if copy else None)


def check_as_came(folder: Path, out: Path, *names: str) -> None:
    for name in names:
        assert (out / name).read_bytes() == (folder / name).read_bytes(), name


def check_tensors(folder: Path, out: Path) -> None:
    """The same names, dtypes, and every bit."""
    given, made = load_file(folder / SINGLE), load_file(out / SINGLE)
    assert given.keys() == made.keys()
    for name, tensor in given.items():
        assert tensor.dtype == made[name].dtype, name
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), made[name].reshape(-1).view(torch.uint8)), name


def spoilt(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    save_file(change(load_file(folder / SINGLE)), folder / SINGLE, metadata={"format": "pt"})


def test_files_are_as_they_came(folder: Path) -> None:
    out, shipped = written(folder)
    check_as_came(folder, out, *AS_CAME)
    assert "transformers 4.46.0" in shipped.readers
    assert not {"train.jsonl", "optimizer.pt", "own.py"} & {file.name for file in out.iterdir()}
    shutil.rmtree(out)
    out, _ = written(folder, copy=False)
    for name in ("config.json", "tokenizer_config.json", "tokenizer.model"):
        with pytest.raises((AssertionError, FileNotFoundError)):
            check_as_came(folder, out, name)


def test_code_goes_with_what_names_it(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoConfig": "own.Config"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "generation_config.json").unlink()
    out, _ = written(folder)
    check_as_came(folder, out, "own.py", "config.json")
    assert not (out / "generation_config.json").exists()


def test_a_link_that_leads_elsewhere_is_not_followed(folder: Path) -> None:
    (folder.parent / "secret").write_text("x")
    (folder / "vocab.json").symlink_to(folder.parent / "secret")
    with pytest.raises(InputError, match="link that leads out"):
        written(folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_step_of_nothing_leaves_every_tensor(folder: Path, dtype: torch.dtype) -> None:
    """Of mixed dtypes too: a norm in float32 beside others; of float64 what float32 cannot hold."""
    spoilt(
        folder,
        lambda state: {name: one if "norm" in name else one.to(dtype) * (1 - 1e-9) for name, one in state.items()},
    )
    out, shipped = written(folder)
    check_tensors(folder, out)
    assert shipped.dtype == dtype and not shipped.passed_over
    shutil.rmtree(out)
    check_tensors(folder, written(folder, dtype)[0])  # asked for what it is, which norms are not
    if dtype != torch.float32:
        shutil.rmtree(out)
        out, _ = written(folder, copy=False)
        with pytest.raises(AssertionError):
            check_tensors(folder, out)


@pytest.mark.parametrize("prefix", ["model.", "transformer."])
def test_names_without_the_prefix_of_the_base_model(folder: Path, make_gpt2: Any, prefix: str) -> None:
    """As GPT-2 lies on the hub, with the masks of its time."""
    if prefix == "transformer.":
        make_gpt2().save_pretrained(folder)
    masks = {"h.0.attn.bias": torch.ones(1, 1, 4, 4).tril(), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    more = masks if prefix == "transformer." else {}
    spoilt(folder, lambda state: {name.removeprefix(prefix): one for name, one in state.items()} | more)
    out, shipped = written(folder)
    check_tensors(folder, out)
    check_as_came(folder, out, "config.json")
    assert shipped.readers.startswith(save.GIVEN_FORM)


def test_tensors_that_the_model_passes_over_go_along(tmp_path: Path, tokenizer: Any) -> None:
    """A layer for speculative decoding, which transformers knows to leave out, and a table of an old checkpoint."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    shape = {"vocab_size": 258, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "kv_lora_rank": 8}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 8, "qk_rope_head_dim": 4}
    shape |= {"v_head_dim": 8, "qk_nope_head_dim": 4, "max_position_embeddings": 64, "first_k_dense_replace": 1}
    folder = tmp_path / "model"
    with seeded(0):
        DeepseekV3ForCausalLM(DeepseekV3Config(**shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    more = {
        "model.layers.61.eh_proj.weight": torch.eye(16),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
    }
    spoilt(folder, lambda state: state | more)
    out, shipped = written(folder)
    check_tensors(folder, out)
    assert shipped.passed_over == ["model.layers.61.eh_proj.weight"]
    shutil.rmtree(out)
    out, _ = written(folder, copy=False)
    with pytest.raises(AssertionError):
        check_tensors(folder, out)


def test_tied_ends_that_are_stored_twice_move_together(folder: Path) -> None:
    spoilt(folder, lambda state: state | {"lm_head.weight": state[EMBEDDINGS].clone()})
    out, _ = written(folder, change=lambda model: model.get_input_embeddings().weight.add_(1.0))
    given, made = load_file(folder / SINGLE), load_file(out / SINGLE)
    assert given.keys() == made.keys() and torch.equal(made["lm_head.weight"], made[EMBEDDINGS])
    assert not torch.equal(given["lm_head.weight"], made["lm_head.weight"])  # the old one would hold the rows
    check_as_came(folder, out, "config.json")


def test_a_twin_is_found_where_names_differ(folder: Path) -> None:
    """Zeros are alike without being tied."""
    zeros = {"a.weight": torch.zeros(4, 4), "b.weight": torch.zeros(4, 4)}
    spoilt(folder, lambda state: state | zeros | {"head": state[EMBEDDINGS].clone()})
    given = load.stored.tensors(folder)
    rest = {name: one for name, one in given.items() if name not in ("head", "b.weight")}
    found = rewritten._twin("head", rest, given)
    assert found is not None and torch.equal(found, load_file(folder / SINGLE)[EMBEDDINGS])
    assert rewritten._twin("b.weight", rest, given) is None


def test_pickles_come_out_as_safetensors_of_the_same_form(folder: Path) -> None:
    state = load_file(folder / SINGLE)
    torch.save({name: one.bfloat16() for name, one in state.items()}, folder / "pytorch_model.bin")
    (folder / SINGLE).unlink()
    trust = Trust(allow_pickle=True)
    model, out = load.load_model(str(folder), torch.float32, CPU, trust), folder.parent / "out"
    out.mkdir()
    shipped = save.write(model, load.load_tokenizer(str(folder)), out, None, Source.of(str(folder), trust).origin)
    check_as_came(folder, out, "config.json")
    assert shipped.dtype == torch.bfloat16
    assert all(torch.equal(state[name].bfloat16(), one) for name, one in load_file(out / SINGLE).items())


def test_ends_stored_apart_are_called_so(folder: Path) -> None:
    spoilt(folder, lambda state: state | {"lm_head.weight": state[EMBEDDINGS] + 1.0})
    out, _ = written(folder)
    check_tensors(folder, out)
    before, after = (json.loads((one / "config.json").read_text()) for one in (folder, out))
    assert after == before | {"tie_word_embeddings": False}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype_changes_one_key(folder: Path, dtype: torch.dtype) -> None:
    out, shipped = written(folder, dtype)
    before, after = (json.loads((one / "config.json").read_text()) for one in (folder, out))
    assert after == before | {"torch_dtype": str(dtype).removeprefix("torch.")}
    assert {one.dtype for one in load_file(out / SINGLE).values()} == {dtype} == {shipped.dtype}


def test_a_dtype_that_cannot_hold_a_weight(folder: Path) -> None:
    """float16 ends at 65,504; rounding to it begins at 65,520."""

    def grow(model: Any) -> None:
        model.model.norm.weight.fill_(65519.0)

    out, _ = written(folder, torch.float16, grow)
    assert load_file(out / SINGLE)[NORM][0] == 65504.0
    shutil.rmtree(out)
    with pytest.raises(Unheld, match=f"float16 cannot hold {NORM}"):
        written(folder, torch.float16, lambda model: model.model.norm.weight.fill_(65520.0))
    shutil.rmtree(out)
    written(folder, torch.bfloat16, lambda model: model.model.norm.weight.fill_(65520.0))


@pytest.mark.parametrize("experts", [2])
def test_fused_experts_are_written_apart(tmp_path: Path, tokenizer: Any, experts: int) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    from problems import seeded

    shape = {"vocab_size": 258, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64}
    with seeded(0):
        model = MixtralForCausalLM(MixtralConfig(**shape, num_local_experts=experts, num_experts_per_tok=1))
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert any(".experts.1." in name for name in load_file(folder / SINGLE))
    spoilt(folder, lambda state: {name: one if "gate" in name else one.bfloat16() for name, one in state.items()})
    out, _ = written(folder)
    check_tensors(folder, out)
    check_as_came(folder, out, "config.json")
