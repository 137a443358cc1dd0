"""Tiny models of four shapes with a LoRA trained on a handful of rows, as folders: what an adapter test starts from."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from expunge.data.rows import Row
from expunge.data.tokens import Rendering, encode
from expunge.demo.tiny import byte_tokenizer
from expunge.loop.training import Training, train
from expunge.problem import Problem, Split
from expunge.runs.distributed import Runtime

TARGETS = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "olmo": ["q_proj", "o_proj", "up_proj"],
    "gpt2": ["c_attn", "c_fc"],
    "opt": ["q_proj", "fc1"],
}
SHAPE = {"vocab_size": 258, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def model_of(family: str) -> Any:
    """A random model of width 32 with 2 layers and 64 positions."""
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Olmo2Config,
        Olmo2ForCausalLM,
        OPTConfig,
        OPTForCausalLM,
    )

    usual = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
    torch.manual_seed(7)
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **SHAPE)).float()
    if family == "opt":
        return OPTForCausalLM(OPTConfig(**usual, ffn_dim=64, word_embed_proj_dim=32, **SHAPE)).float()
    if family == "olmo":
        return Olmo2ForCausalLM(Olmo2Config(**usual, intermediate_size=64, **SHAPE)).float()
    config = LlamaConfig(**usual, intermediate_size=64, tie_word_embeddings=True, **SHAPE)
    return LlamaForCausalLM(config).float()


def write_rows(folder: Path) -> dict[str, str]:
    """Invented rows; `forget` and `retain` are what the adapter learns."""
    paths = {}
    for name, count in (("forget", 6), ("retain", 6), ("holdout", 24)):
        rows = [{"prompt": f"{name[0]}{n}?", "completion": f"{(n * 37 + len(name)) % 100:02d}"} for n in range(count)]
        paths[name] = str(folder / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return paths


def make(folder: Path, family: str, epochs: int = 0, grown: int = 0, **settings: Any) -> Path:
    """Base and tokenizer in `folder/base`, the adapter in `folder/adapter` (its path is returned).

    With `epochs` the adapter is trained on forget and retain rows; without, it is random. `grown` tokens are added by
    the fine-tune: to the tokenizer beside the adapter, and where it trains them, to the embeddings.
    """
    tokenizer, base = byte_tokenizer([], 258), model_of(family)
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    base.name_or_path = str(folder / "base")
    if grown:
        tokenizer.add_tokens([f"<new{n}>" for n in range(grown)])
        tokenizer.save_pretrained(folder / "adapter")
        if "modules_to_save" in settings:
            base.resize_token_embeddings(len(tokenizer))
    usual = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS[family], "task_type": "CAUSAL_LM"}
    usual |= {"lora_dropout": 0.3, "fan_in_fan_out": family == "gpt2"}
    wrapped = get_peft_model(base, LoraConfig(**usual | settings))
    if epochs:
        _train(wrapped, tokenizer, epochs)
    else:
        with torch.no_grad():
            for tensor in wrapped.parameters():
                if tensor.requires_grad:
                    tensor += 0.1 * torch.randn_like(tensor)
    wrapped.save_pretrained(folder / "adapter")
    return folder / "adapter"


def _train(wrapped: Any, tokenizer: Any, epochs: int) -> None:
    rows = tuple(
        Row(name, n, "answer", f"{name[0]}{n}?", f"{(n * 37 + len(name)) % 100:02d}")
        for name in ("forget", "retain")
        for n in range(6)
    )
    rendering = Rendering(context=64)
    split = Split("train", rows, tuple(encode(rows, rendering, tokenizer)))
    movable = {name: tensor for name, tensor in wrapped.named_parameters() if tensor.requires_grad}
    problem = Problem(wrapped, tokenizer, Runtime("cpu"), rendering, {}, 0, movable=movable)
    train(problem, split, Training(epochs=epochs, learning_rate=1e-2, batch_rows=12), "test")
