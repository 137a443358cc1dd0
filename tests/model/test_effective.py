"""Arithmetic on effective weights: sums of products B A against dense matrices, and mistakes that must be seen."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from expunge.errors import InputError
from expunge.model import effective
from problems import lora_of, model_of, seeded


def movable(model: Any) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}


def dense(made: effective.Effective) -> dict[str, Tensor]:
    return {name: parts[0] if len(parts) == 1 else parts[0] @ parts[1] for name, parts in made.items()}


def moved(model: Any, seed: int) -> None:
    """Away from where it is, in every matrix that moves."""
    with seeded(seed), torch.no_grad():
        for tensor in movable(model).values():
            tensor += 0.2 * torch.randn_like(tensor)


def deltas(model: Any) -> dict[str, Tensor]:
    """What peft itself says that each layer adds, by name."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight") and "default" in getattr(module, "lora_A", {}):
            found[f"{name}.default"] = module.get_delta_weight("default").detach().clone()
    return found


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
def test_products_are_what_peft_adds_to_its_layers(family: str) -> None:
    """GPT-2's layers hold the transpose."""
    model = lora_of(family)
    found, expected = dense(effective.read(model, movable(model))), deltas(model)
    assert found.keys() == expected.keys() and found
    for name, part in expected.items():
        assert torch.allclose(found[name].T if family == "gpt2" else found[name], part, atol=1e-12)


def test_full_tensors_are_themselves() -> None:
    model = model_of("llama")
    found = effective.read(model, movable(model))
    assert all(torch.equal(found[name][0], tensor) for name, tensor in movable(model).items())
    moved(model, 1)
    assert not any(torch.equal(found[name][0], tensor) for name, tensor in movable(model).items())  # copies


def test_reading_and_writing_back_changes_no_bit() -> None:
    for model in (model_of("llama"), lora_of("llama", fresh=True)):
        before = {name: tensor.detach().clone() for name, tensor in movable(model).items()}
        assert effective.write(model, movable(model), effective.read(model, movable(model))) == 0.0
        assert all(torch.equal(before[name], tensor) for name, tensor in movable(model).items())


def three_of(model: Any) -> tuple[Any, Any, Any]:
    """Effective weights at three places."""
    made = []
    for seed in (1, 2, 3):
        moved(model, seed)
        made.append(effective.read(model, movable(model)))
    return made[0], made[1], made[2]


def test_a_sum_of_products_is_the_sum_of_the_dense_matrices() -> None:
    model = lora_of("llama")
    one, two, three = three_of(model)
    found = dense(effective.mixed([(2.0, one), (-0.5, two), (1.0, three)]))
    for name in found:
        expected = 2 * dense(one)[name] - 0.5 * dense(two)[name] + dense(three)[name]
        assert torch.allclose(found[name], expected, atol=1e-12)
        factors = [2 * one[name][i] - 0.5 * two[name][i] + three[name][i] for i in (0, 1)]  # B and A apart
        assert (factors[0] @ factors[1] - expected).norm() > 0.5 * expected.norm()


def test_what_is_written_is_the_nearest_product_of_the_adapter_s_rank() -> None:
    """Rank 2 of a sum of rank 6: no product of rank 2 is nearer (Eckart and Young), and the loss is said."""
    model = lora_of("llama")
    one, two, three = three_of(model)
    summed = effective.mixed([(1.0, one), (-1.0, two), (1.0, three)])
    lost = effective.write(model, movable(model), summed)
    written, shares = dense(effective.read(model, movable(model))), []
    for name, whole in dense(summed).items():
        u, values, v = torch.linalg.svd(whole)
        best = u[:, :2] * values[:2] @ v[:2]
        assert torch.allclose(written[name], best, atol=1e-10)
        shares.append(float((whole - best).norm() / whole.norm()))
    assert lost == pytest.approx(max(shares), rel=1e-9)
    assert 0.05 < lost < 1


def test_a_sum_that_fits_is_written_exactly_and_the_forward_pass_says_so() -> None:
    """W0 + c s B A: a multiple of one product, beside a product of zero that must not count as rank."""
    model = lora_of("llama", fresh=True)
    nothing = effective.read(model, movable(model))
    moved(model, 5)
    ids = torch.tensor([[3, 4, 5, 6]])
    trained = effective.read(model, movable(model))
    effective.write(model, movable(model), effective.mixed([(1.5, nothing), (-0.5, trained)]))
    expected = {name: -0.5 * part for name, part in dense(trained).items()}
    found = dense(effective.read(model, movable(model)))
    assert all(torch.allclose(found[name], part, atol=1e-12) for name, part in expected.items())
    with torch.no_grad():
        here = model(ids).logits
        merged = model.merge_and_unload()(ids).logits
    assert torch.allclose(here, merged, atol=1e-10)


def test_sums_of_full_tensors_cancel_exactly() -> None:
    model = model_of("llama").float()
    here = effective.read(model, movable(model))
    moved(model, 1)
    there = effective.read(model, movable(model))
    back = effective.mixed([(1.0, there), (1.0, here), (-1.0, there)])
    assert all(torch.equal(back[name][0], part[0]) for name, part in here.items())


def test_embeddings_and_whole_modules_of_an_adapter() -> None:
    model = lora_of("gpt2", target_modules=["wte", "c_attn"], modules_to_save=["ln_f"])
    found = effective.read(model, movable(model))
    sizes = {name: len(parts) for name, parts in found.items()}
    assert sizes.pop("base_model.model.transformer.wte.default") == 2
    assert [name for name, size in sizes.items() if size == 1] == [name for name in sizes if "ln_f" in name] != []
    doubled = effective.mixed([(2.0, found)])
    effective.write(model, movable(model), doubled)
    again = dense(effective.read(model, movable(model)))
    assert all(torch.allclose(again[name], part, atol=1e-12) for name, part in dense(doubled).items())


def test_adapters_that_are_no_sum_are_refused() -> None:
    dora = get_peft_model(model_of("llama"), LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    with pytest.raises(InputError, match=r"DoRA.*Merge it"):
        effective.read(dora, movable(dora))
    from peft import IA3Config

    scaled = get_peft_model(
        model_of("llama"), IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"])
    )
    with pytest.raises(InputError, match="is no LoRA"):
        effective.read(scaled, movable(scaled))


def test_half_of_a_product_is_refused() -> None:
    model = lora_of("llama")
    half = {name: tensor for name, tensor in movable(model).items() if "lora_B" in name}
    with pytest.raises(InputError, match="only one factor"):
        effective.read(model, half)
