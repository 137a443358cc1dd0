"""Fixtures: byte-level tokenizers and tiny models from configs, all float32 and seeded. Nothing reaches the network."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

MERGED = ["abcd abcd abcd"] * 20  # makes "abcd" and " abcd" single tokens
VOCABULARY = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first, so that the last minutes keep all processes busy."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)


@pytest.fixture(scope="session", autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test, and no fixture of a module, touches the user's own key or working folders."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp("settings")))
        yield


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """One token a byte, a begin token before every text."""
    from expunge.demo.tiny import byte_tokenizer

    return byte_tokenizer([], 258)


@pytest.fixture(scope="session")
def merging() -> Any:
    """Knows "abcd" and " abcd" as single tokens; all else is one token a byte."""
    from expunge.demo.tiny import byte_tokenizer

    return byte_tokenizer(MERGED, VOCABULARY)


@pytest.fixture(scope="session")
def make_llama(tokenizer: Any) -> Callable[..., Any]:
    """Makes Llamas of width 32 with 2 layers and tied embeddings."""
    from expunge.demo.tiny import llama

    def make(seed: int = 0, context: int = 64) -> Any:
        return llama(tokenizer, width=32, layers=2, heads=2, context=context, seed=seed).eval()

    return make


@pytest.fixture(scope="session")
def make_gpt2() -> Callable[..., Any]:
    """Makes GPT-2 models of width 32 with 2 layers (their linear layers are `Conv1D`)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    def make(seed: int = 0) -> Any:
        config = GPT2Config(vocab_size=258, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=0)
        config.eos_token_id = config.pad_token_id = 1
        return _seeded(GPT2LMHeadModel, config, seed)

    return make


@pytest.fixture(scope="session")
def make_opt() -> Callable[..., Any]:
    """Makes OPT models of width 32 with 2 layers."""
    from transformers import OPTConfig, OPTForCausalLM

    def make(seed: int = 0) -> Any:
        size = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64}
        shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64, "vocab_size": 258}
        config = OPTConfig(**size, **shape, bos_token_id=0, eos_token_id=1, pad_token_id=1)
        return _seeded(OPTForCausalLM, config, seed)

    return make


@pytest.fixture(scope="session")
def saved_llama(make_llama: Callable[..., Any], tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with safetensors and tokenizer; copy it before changing it."""
    folder = tmp_path_factory.mktemp("model") / "llama"
    make_llama().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _seeded(kind: Any, config: Any, seed: int) -> Any:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(config).float().eval()
