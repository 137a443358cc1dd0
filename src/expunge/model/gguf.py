"""Models in one GGUF file, as llama.cpp and Ollama serve them: read, dequantised, and kept as a folder of safetensors.

transformers reads the weights, the configuration and the tokenizer out of the file, in float32. It refuses to save what
it read, since the configuration names a quantisation that is no longer there; so the tensors are put into a model of
the plain configuration, which is written to the cache and is used like any other folder from there on. It is found
again by the file's content. What unlearning changes is not quantised again: convert the output with llama.cpp and judge
it again as it is served.
"""

import contextlib
import copy
import io
import re
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from packaging.version import Version
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from expunge.errors import InputError, first_line
from expunge.files import hashing
from expunge.files.reading import check_regular
from expunge.model import stored
from expunge.model.save import atomic_folder, write
from expunge.runs import distributed
from expunge.runs.workspace import cache_folder, private

MAGIC = b"GGUF"
PLAIN = {"F32", "F16", "BF16"}
READS = Version("5.23")  # of transformers: the first that was tried and reads them right
ROLES = ("model", "base", "retrained", "unlearned", "adapter_base")
Config = TypeVar("Config")


def file_of(path: str | None) -> Path | None:
    """The GGUF file that a path names: itself, or the one in a folder that has no other weights. Raises `InputError`
    where there are several."""
    place = Path(path or "")
    if path and place.suffix == ".gguf" and not place.is_dir():
        return place
    if not path or not place.is_dir() or any(any(place.glob(kind)) for kind in ("*.safetensors", "*.bin", "*.pt")):
        return None
    files = sorted(place.glob("*.gguf"))
    if len(files) > 1:
        raise InputError(f"{path}: {len(files)} GGUF files. Name one of them ({files[0]}).")
    return files[0] if files else None


def check(file: Path, role: str) -> None:
    """Raises `InputError` where this is no whole GGUF file, or the package that reads it is not there."""
    if not file.exists():
        raise InputError(f"{file}: no such file for --{role}.")
    check_regular(file, "the GGUF file", most=None)
    stored.check_pointer(file)
    with file.open("rb") as content:
        start = content.read(len(MAGIC))
    if start != MAGIC:
        raise InputError(f"{file}: not a GGUF file, whatever its name says.")
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", file.name):
        raise InputError(f"{file}: one part of several. Join them first (llama-gguf-split --merge).")
    if find_spec("gguf") is None:
        raise InputError(f'{file}: reading GGUF needs the package gguf. Run: pip install "expunge[gguf]"')
    if Version(transformers.__version__) < READS:
        raise InputError(
            f"{file}: transformers {transformers.__version__} reads tokenizers of GGUF files as others (seen in 5.4). "
            f'Run: pip install "transformers>={READS}"'
        )


def opened(config: Config, say: Callable[[str], None] = lambda line: None) -> Config:
    """The configuration of a command with the folder of what was read in place of each GGUF file that it names."""
    changed = copy.copy(config)
    for role in ROLES:
        if file := file_of(getattr(config, role, None)):
            object.__setattr__(changed, role, str(folder_of(file, say)))
    return changed


def folder_of(file: Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """A folder of safetensors (float32), tokenizer and configuration with what is in the file; from the cache, or made.

    Raises `InputError` for files that transformers cannot read.
    """
    check(file, "model")
    folder = cache_folder() / f"gguf-{file.stem}-{hashing.file_hash([file])[:16]}"
    if not folder.is_dir():
        say(f"reading {file} ({_kinds(file)}), dequantised to float32")
        private(cache_folder())
        if distributed.main_process():
            _convert(file, folder)
        distributed.wait()
    say(f"{file} is used as {folder}; what is written are safetensors, not GGUF")
    return folder


def _convert(file: Path, folder: Path) -> None:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    named: dict[str, Any] = {"gguf_file": file.name}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar of its own, also where there is no terminal
            read = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **named)
        config = AutoConfig.from_pretrained(file.parent, **named)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **named)
    except Exception as error:
        raise _unreadable(file, error) from None
    for name in ("quantization_config", "_model_name_or_path"):
        config.__dict__.pop(name, None)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(read.state_dict(), strict=True, assign=True)
    model.tie_weights()
    model.generation_config = read.generation_config
    with atomic_folder(folder, private=True) as temporary:
        write(model, tokenizer, temporary, torch.float32)


def _unreadable(file: Path, error: Exception) -> InputError:
    return InputError(
        f"{file}: it cannot be read ({first_line(error)}). Fetch it anew, or give the model's own folder."
    )


def _kinds(file: Path) -> str:
    """How its tensors are stored, the most common kind first."""
    import gguf  # takes a second, and few need it

    try:
        kinds = Counter(tensor.tensor_type.name for tensor in gguf.GGUFReader(str(file)).tensors)
    except Exception as error:
        raise _unreadable(file, error) from None
    quantised = [name for name, _ in kinds.most_common() if name not in PLAIN]
    return ", ".join(quantised or [name for name, _ in kinds.most_common(1)])
