"""Changes as LoRA files, read back by plain peft: base + s B A + change of each layer, and no s B A in sight."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from e2e import adapters
from expunge.errors import ExpungeError
from expunge.model import adapter as reading
from expunge.model import products, save
from expunge.model.layers import linear_weights
from expunge.model.products import folded, write_alone, write_folded
from problems import text_model

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "olmo2": ("olmo2", {}),
    "gpt2": ("gpt2", {}),
    "opt": ("opt", {}),
    "rank-stabilised": ("llama", {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"k_proj": 9}}),
    "all linear": ("gpt2", {"target_modules": "all-linear"}),
    "some layers": ("llama", {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]}),
    "a whole linear layer": ("opt", {"modules_to_save": ["fc2"]}),
    "embeddings": ("opt", {"target_modules": ["embed_tokens", "q_proj"]}),
    "biases": ("opt", {"bias": "all"}),
}


def merged(base: Path, adapter: Path) -> Any:
    """As plain transformers and peft have it."""
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return save.merge(PeftModel.from_pretrained(whole, adapter), adapter=True)


def linear(model: Any) -> dict[str, Tensor]:
    """All weights of linear layers as [O, I] in float64."""
    weights = dict(model.named_parameters())
    return {name: one.matrix(weights[name].detach()).double() for name, one in linear_weights(model, weights).items()}


def change_of(model: Any, rank: int = 3) -> dict[str, dict[str, Tensor]]:
    """A change of every linear layer but the first."""
    chance = torch.Generator().manual_seed(1)
    return {
        name: {
            "left": 0.1 * torch.randn(len(weight), rank, generator=chance),
            "right": torch.randn(rank, weight.shape[1], generator=chance),
        }
        for name, weight in list(linear(model).items())[1:]
    }


def check(folder: Path, name: str, **settings: Any) -> dict[str, Any]:
    """Writes an adapter with a change in it; what loads is the sum, everywhere. Returns the settings written."""
    adapter = adapters.make(folder, name, **settings)
    before = merged(folder / "base", adapter)
    change = change_of(before)
    given = reading.read(str(adapter), None, False)
    (out := folder / "out").mkdir()
    written = write_folded(given, change, out, None)
    after = merged(folder / "base", out)
    old, new = linear(before), linear(after)
    for layer, weight in old.items():
        one = change.get(layer)
        expected = weight if one is None else weight + one["left"].double() @ one["right"].double()
        assert torch.allclose(new[layer], expected, atol=1e-5), layer
    rest = {name: tensor for name, tensor in after.named_parameters() if name not in old}
    assert rest and all(torch.equal(tensor, dict(before.named_parameters())[name]) for name, tensor in rest.items())
    shapes = {key: tensor.shape for key, tensor in load_file(out / reading.WEIGHTS).items()}
    assert all(shapes[f"{reading.PREFIX}{layer}.lora_A.weight"][0] == rank for layer, rank in written.ranks.items())
    made: dict[str, Any] = json.loads((out / reading.SETTINGS).read_text())
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_the_sum(kind: str, tmp_path: Path) -> None:
    family, settings = KINDS[kind]
    made = check(tmp_path, family, **settings)
    own_scales = "alpha_pattern" in settings or "rank_pattern" in settings
    assert made["r"] == (4 if own_scales else max(made["rank_pattern"].values()))
    assert len(made["target_modules"]) == len(made["rank_pattern"]) == len(made["alpha_pattern"])


@pytest.mark.parametrize("stabilised", [False, True])
def test_a_server_that_reads_no_patterns_has_the_same_product(stabilised: bool, tmp_path: Path) -> None:
    """One rank, room for which is made in each layer, and one scale of all: lora_alpha over r, or over its root."""
    made = check(tmp_path, "llama", use_rslora=stabilised)
    after = merged(tmp_path / "base", tmp_path / "out")
    tensors = load_file(tmp_path / "out" / reading.WEIGHTS)
    base = linear(AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32))
    scale = made["lora_alpha"] / (made["r"] ** 0.5 if stabilised else made["r"])
    for layer, weight in linear(after).items():
        a, b = (tensors.get(f"{reading.PREFIX}{layer.removesuffix('.weight')}.lora_{one}.weight") for one in "AB")
        assert a is None or len(a) <= made["r"]
        assert a is None or torch.allclose(base[layer] + scale * (b @ a).double(), weight, atol=1e-5), layer


@pytest.mark.parametrize("wrong", ["exchanged", "no scale", "no patterns"])
def test_mistakes_are_seen(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A and B exchanged (in layers that are square); alpha over the rank forgotten, when folding and when writing."""
    if wrong == "exchanged":
        right = products.folded
        monkeypatch.setattr(products, "folded", lambda parts: tuple(one.T for one in reversed(right(parts))))
    if wrong == "no scale":
        monkeypatch.setattr(products, "scale_of", lambda *_: 1.0)
    if wrong == "no patterns":
        monkeypatch.setattr(products, "_patterns", lambda *_: {})
    with pytest.raises((AssertionError, RuntimeError)):
        check(tmp_path, "llama")


def test_the_given_matrices_cannot_be_cut_out_again() -> None:
    """The sum is exact, and no column of a summand stands in it; beside one another, they all would."""
    chance = torch.Generator().manual_seed(0)
    given = torch.randn(8, 2, generator=chance), torch.randn(2, 6, generator=chance)
    change = torch.randn(8, 3, generator=chance), torch.randn(3, 6, generator=chance)
    left, right = folded([change, given])
    whole = given[0].double() @ given[1].double() + change[0].double() @ change[1].double()
    assert torch.allclose(left @ right, whole, atol=1e-12)
    assert left.shape == (8, 5) and right.shape == (5, 6)

    def stands_in(columns: Tensor, own: Tensor) -> bool:
        cosines = torch.nn.functional.normalize(columns.double(), dim=0).T @ torch.nn.functional.normalize(own, dim=0)
        return float(cosines.abs().max()) > 0.999

    assert not stands_in(given[0], left) and not stands_in(given[1].T, right.T)
    assert stands_in(given[0], torch.cat([change[0], given[0]], dim=1).double())
    assert folded([change, given, given, given])[0].shape == (8, 6)  # no rank beyond that of the layer


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_a_change_alone(family: str, tmp_path: Path) -> None:
    model = text_model(family, seed=7)
    model.save_pretrained(tmp_path / "base")
    old, change = linear(model), change_of(model)
    (out := tmp_path / "out").mkdir()
    written = write_alone(model, str(tmp_path / "base"), change, out)
    new = linear(merged(tmp_path / "base", out))
    assert set(written.ranks.values()) == {3} and len(written.ranks) == len(old) - 1
    for layer, weight in old.items():
        one = change.get(layer)
        expected = weight if one is None else weight + one["left"].double() @ one["right"].double()
        assert torch.allclose(new[layer], expected, atol=1e-5), layer
    with pytest.raises(ExpungeError, match="nothing moved"):
        write_alone(model, str(tmp_path / "base"), {}, out)


@pytest.mark.parametrize(
    ("settings", "odd"),
    [
        ({}, ""),
        ({"init_lora_weights": "gaussian"}, ""),
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: pissa"),
        ({"target_parameters": ["experts.up"]}, "target_parameters"),
    ],
)
def test_adapters_that_are_no_sum(settings: dict[str, Any], odd: str) -> None:
    assert reading.Adapter(Path("a"), settings, "b").no_sum == odd
