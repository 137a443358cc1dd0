"""Writing models: merged in float32, then cast; always below a temporary name that is renamed when all is there."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME
from transformers.utils import logging as transformers_logging

from expunge.errors import InputError
from expunge.model import adapter as adapters
from expunge.runs import distributed, workspace
from expunge.runs.checkpoint import full_disk_explained


def check_output(output: str | Path) -> Path:
    """Raises `InputError` where an output exists or cannot be made, before anything is computed or written."""
    path = Path(output)
    if path.exists() or path.is_symlink():
        raise InputError(f"{path}: the output exists already and is never overwritten. Name another --output.")
    parent = next(folder for folder in path.absolute().parents if folder.exists() or folder.is_symlink())
    if not parent.is_dir():
        raise InputError(f"{path}: {parent} is a file, so no folder can be made below it. Name another --output.")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{path}: {parent} cannot be written to. Name another --output.")
    return path


@contextlib.contextmanager
def atomic_folder(output: Path, private: bool = False) -> Iterator[Path]:
    """A temporary sibling of `output`, renamed to it at the end; removed where the work inside fails.

    `private`: only its owner may enter it. Of several processes the main one makes and renames it, and all get its
    name.
    """
    if not distributed.main_process():
        yield distributed.from_main(lambda: output)
        distributed.wait()
        return
    made = [folder for folder in (output.absolute().parent, *output.absolute().parents[1:]) if not folder.exists()]
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.absolute().parent))
    try:
        with workspace.noted(temporary), full_disk_explained(temporary.parent):
            yield distributed.from_main(lambda: temporary)
            temporary.chmod(0o700 if private else 0o755)
            if output.exists():
                raise InputError(f"{output}: the output appeared while this ran; nothing was overwritten.")
            temporary.rename(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    distributed.wait()


def merge(model: Any, adapter: bool) -> Any:
    """The plain model in float32 or wider, an adapter merged into it: W + s B A of each layer, in that dtype.

    Consumes the wrapped model.
    """
    model = model.to(torch.promote_types(model.dtype, torch.float32))
    if not adapter:
        return model
    model = model.merge_and_unload()
    head = model.get_output_embeddings()
    if head is not None and model.config.tie_word_embeddings:  # an adapter may have trained one of two tied ends
        model.config.tie_word_embeddings = head.weight is model.get_input_embeddings().weight
    return model


def write(model: Any, tokenizer: Any, folder: Path, dtype: torch.dtype) -> None:
    """Weights as safetensors in `dtype`, config and tokenizer. The model itself stays as it is where dtypes agree."""
    cast: dict[tuple[Any, ...], torch.Tensor] = {}  # tied tensors stay one tensor, and are written once
    state = {
        name: cast.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), _cast(tensor, dtype))
        for name, tensor in model.state_dict().items()
    }
    transformers_logging.disable_progress_bar()  # a bar per file would be noise
    before = model.config.dtype
    own = model.generation_config
    model.generation_config = GenerationConfig()  # older transformers raise on a checkpoint's odd settings, at the end
    try:
        with full_disk_explained(folder, sum(tensor.nbytes for tensor in cast.values())):
            model.save_pretrained(folder, state_dict=state)
    finally:
        model.generation_config = own
    own.to_json_file(folder / GENERATION_CONFIG_NAME, use_diff=True, keys_to_pop=["compile_config"])
    model.config.dtype = dtype  # save_pretrained declares the dtype of the model, not of what it writes
    model.config.save_pretrained(folder)
    model.config.dtype = before
    tokenizer.save_pretrained(folder)


def write_adapter(model: Any, tokenizer: Any, folder: Path) -> None:
    """Our own adapter alone, float32, with the tokenizer."""
    settings = model.peft_config["default"]
    settings.base_model_name_or_path = adapters.in_full(settings.base_model_name_or_path or "")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
