"""Fixtures: byte-level tokenizers and tiny models from configs, all float32 and seeded. Nothing reaches the network."""

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

MERGED = ["abcd abcd abcd"] * 20  # makes "abcd" and " abcd" single tokens
VOCABULARY = 300
LONGEST = "start_page command_line two_processes unlearn memory made_models checkpoint interrupted adapter".split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that the last minutes keep all processes busy."""

    def place(item: pytest.Item) -> tuple[int, bool]:
        name = item.path.stem.removeprefix("test_")
        return LONGEST.index(name) if name in LONGEST else len(LONGEST), "e2e" not in item.path.parts

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of several processes, one has all tests of a file, since what a module makes is made once then; in this order.

    Marks of `xdist_group` would reach no scheduler: xdist 3.8 writes them to a name that pytest 9.2 no longer reads.
    """
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test, and no fixture of a module, touches the user's own key or working folders."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp("settings")))
        yield


@pytest.fixture(autouse=True)
def same_chance() -> None:
    """What a test draws hangs neither on the tests before it nor on the process that it is in."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


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
def make_llama() -> Callable[..., Any]:
    """Makes Llamas of width 32 with 2 layers and tied embeddings, as `problems.text_model` does."""
    from problems import text_model

    return partial(text_model, "llama")


@pytest.fixture(scope="session")
def make_gpt2() -> Callable[..., Any]:
    """Makes GPT-2 models (their linear layers are `Conv1D`)."""
    from problems import text_model

    return partial(text_model, "gpt2")


@pytest.fixture(scope="session")
def make_opt() -> Callable[..., Any]:
    from problems import text_model

    return partial(text_model, "opt")


@pytest.fixture(scope="session")
def saved_llama(make_llama: Callable[..., Any], tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with safetensors and tokenizer; copy it before changing it."""
    folder = tmp_path_factory.mktemp("model") / "llama"
    make_llama().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
