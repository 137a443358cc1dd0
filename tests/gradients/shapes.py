"""Tiny float64 models of four shapes and rows made of ids, for oracles."""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from expunge.data.rows import Row
from expunge.data.tokens import Rendering, Window
from expunge.problem import Problem, Split
from expunge.runs.distributed import Runtime

VOCABULARY = 13
FAMILIES = ("llama", "olmo", "gpt2", "opt")
SHAPE = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
TARGETS = {
    "llama": ["q_proj", "k_proj", "down_proj"],
    "olmo": ["q_proj", "o_proj", "up_proj"],
    "gpt2": ["c_attn", "c_fc"],
    "opt": ["q_proj", "fc1"],
}


def model_of(family: str, seed: int = 7, tied: bool = True) -> Any:
    """Width 8, two layers, grouped heads for Llama, float64 throughout (their norms would go through float32)."""
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        OlmoConfig,
        OlmoForCausalLM,
        OPTConfig,
        OPTForCausalLM,
    )

    usual: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    usual |= {"max_position_embeddings": 16, "tie_word_embeddings": tied} | SHAPE
    torch.manual_seed(seed)
    if family == "gpt2":
        size = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16}
        plain = {"tie_word_embeddings": tied, "resid_pdrop": 0.0}
        made: Any = GPT2LMHeadModel(GPT2Config(**size, **plain, embd_pdrop=0.0, attn_pdrop=0.0, **SHAPE))
    elif family == "opt":
        made = OPTForCausalLM(OPTConfig(**usual, ffn_dim=12, word_embed_proj_dim=8, dropout=0.0))
    elif family == "olmo":
        made = OlmoForCausalLM(OlmoConfig(**usual, intermediate_size=12))
    else:
        made = LlamaForCausalLM(LlamaConfig(**usual, num_key_value_heads=1, intermediate_size=12))
    with torch.no_grad():
        for tensor in made.parameters():
            tensor += 0.3 * torch.randn_like(tensor)  # away from the special values of a fresh model
    for module in made.modules():
        if type(module).__name__ in ("LlamaRMSNorm", "OlmoLayerNorm"):
            module.forward = _wide_norm(module)  # type: ignore[method-assign]
    return made.double().eval()


def _wide_norm(module: Any) -> Any:
    """RMSNorm or OLMo's layer norm without weights, in the dtype of what comes in."""

    def forward(x: Tensor) -> Tensor:
        if not hasattr(module, "weight"):
            return torch.nn.functional.layer_norm(x, x.shape[-1:])
        weight: Tensor = module.weight
        return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + module.variance_epsilon)

    return forward


def lora_of(family: str, fresh: bool = False, **settings: Any) -> Any:
    """A LoRA of rank 2; unless fresh, B is not zero, so that A has gradients too."""
    usual = {"r": 2, "lora_alpha": 3, "target_modules": TARGETS[family], "fan_in_fan_out": family == "gpt2"}
    wrapped = get_peft_model(model_of(family), LoraConfig(task_type="CAUSAL_LM", **usual | settings)).double()
    with torch.no_grad():
        for name, tensor in wrapped.named_parameters():
            if "lora" in name and not fresh:
                tensor += 0.3 * torch.randn_like(tensor)
    return wrapped.eval()


def problem_of(model: Any, windows_of: dict[str, tuple[int, ...]] | None = None) -> Problem:
    """A problem whose splits have rows of the given numbers of windows, lengths 2 to 9, ids from a fixed seed."""
    splits = {
        name: split_of(name, counts, seed)
        for seed, (name, counts) in enumerate((windows_of or {"retain": (1, 1, 3, 1, 2, 5, 1)}).items())
    }
    movable = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    return Problem(model, None, Runtime("cpu"), Rendering(context=16), splits, 0, movable=movable)


def split_of(name: str, counts: tuple[int, ...], seed: int = 0) -> Split:
    """Rows of `counts` windows each; a window's first token is never a target, some others are not either."""
    random = torch.Generator().manual_seed(seed)
    windows = []
    for row, count in enumerate(counts):
        for _ in range(count):
            length = int(torch.randint(2, 10, (1,), generator=random))
            ids = torch.randint(0, VOCABULARY, (length,), generator=random).tolist()
            counted = [False] + [bool(torch.rand(1, generator=random) < 0.7) for _ in range(length - 1)]
            counted[-1] = True
            windows.append(Window(row, tuple(ids), tuple(counted)))
    rows = tuple(Row(name, n, "document", "", f"{name} {n}") for n in range(len(counts)))
    return Split(name, rows, tuple(windows))


def row_gradients(problem: Problem, split: Split) -> dict[str, Tensor]:
    """[rows, *shape] by autograd, one window at a time without any padding, summed over a row's windows."""
    found = {name: torch.zeros(len(split.rows), *tensor.shape).double() for name, tensor in problem.movable.items()}
    for window in split.windows:
        logits = problem.model(input_ids=torch.tensor([window.ids]), use_cache=False).logits[0]
        places = [place for place, counts in enumerate(window.counted) if counts]
        before, labels = torch.tensor(places) - 1, torch.tensor([window.ids[place] for place in places])
        loss = torch.nn.functional.cross_entropy(logits[before], labels, reduction="sum")
        gradients = torch.autograd.grad(loss, list(problem.movable.values()), allow_unused=True)
        for name, gradient in zip(problem.movable, gradients, strict=True):
            if gradient is not None:
                found[name][window.row] += gradient
    return found


def same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10) -> bool:
    """Whether all tensors agree to `tolerance`, relative to the largest entry of each."""
    return found.keys() == expected.keys() and all(
        float((found[name] - expected[name]).abs().max()) <= tolerance * max(1.0, float(expected[name].abs().max()))
        for name in expected
    )
