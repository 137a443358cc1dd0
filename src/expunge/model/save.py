"""Writing models: merged in float32, then cast; always below a temporary name that is renamed when all is there."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME
from transformers.utils import logging as transformers_logging

from expunge.model import adapter as adapters
from expunge.model import carried, rewritten, stored
from expunge.model.rewritten import held
from expunge.runs import distributed, outputs

NEW_FORM = f"transformers 5: written in the form of {transformers.__version__}; older versions were not tried"
GIVEN_FORM = "what reads the input: tensors have its names, and config.json and the tokenizer's files its form"


@contextlib.contextmanager
def atomic_folder(output: Path, private: bool = False, replaces: bool = False) -> Iterator[Path]:
    """`runs.outputs.whole_folder`; of several processes the main one makes and renames it, and all get its name."""
    if not distributed.main_process():
        yield distributed.from_main(lambda: output)
    else:
        with outputs.whole_folder(output, private, replaces) as temporary:
            yield distributed.from_main(lambda: temporary)
    distributed.wait()


def merge(model: PreTrainedModel | PeftModel, adapter: bool) -> PreTrainedModel:
    """The plain model in float32 or wider, an adapter merged into it: W + s B A of each layer, in that dtype.

    Consumes the wrapped model.
    """
    model = model.to(torch.promote_types(model.dtype, torch.float32))
    if not adapter:
        return model
    model = model.merge_and_unload()
    head = model.get_output_embeddings()
    if head is not None and says_tied(model.config):  # an adapter may have trained one of two tied ends
        model.config.tie_word_embeddings = head.weight is model.get_input_embeddings().weight
    return model


@dataclass(frozen=True, slots=True)
class Shipped:
    """How a model was written: the dtype of most of its numbers, which loaders read it, in words, and names of matrices
    that the model has no place for and that went over as they came."""

    dtype: torch.dtype
    readers: str
    passed_over: Sequence[str] = ()


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: torch.dtype | None,
    origin: carried.Origin | None = None,
) -> Shipped:
    """Weights as safetensors, config and tokenizer. The model itself stays as it is where dtypes agree.

    With an `origin`, all files that did not change are copied from there, tensors have its names, and without a `dtype`
    each has its own. Raises `Unheld`.
    """
    home = carried.folder_of(origin.model) if origin else None
    given = stored.tensors(home) or stored.pickled(home) if home else {}
    dtype = None if dtype == stored.dtype(given) else dtype  # what stood in float32 beside half precision stays so
    usual = dtype or stored.dtype(given) or model.config.dtype or torch.float32
    state = _cast(model, dtype, usual, given)
    _save(model, folder, state, usual)
    if origin is None or home is None:
        tokenizer.save_pretrained(folder)
        return Shipped(usual, NEW_FORM)
    carried.carry_tokenizer(origin.tokenizer, tokenizer, folder)
    carried.carry_settings(home, folder)
    fresh = AutoConfig.from_pretrained(home, trust_remote_code=model.is_remote_code())
    changed, written = _changed(model.config, fresh), stored.tensors(folder)
    names = rewritten.given_names(written, given, model.base_model_prefix)
    new = set(names.values()) - given.keys()
    if new and not (len(new) == 1 and "tie_word_embeddings" in changed):  # but for a head that has come off its end
        return Shipped(usual, NEW_FORM)
    if any(name != own for name, own in names.items()):
        rewritten.rename(folder, names)
        written = stored.tensors(folder)
    passed_over = rewritten.as_given(folder, written, given, dtype, state)
    before = stored.dtype(given) or fresh.dtype
    carried.carry_config(home, folder, changed, None if before == usual else usual)
    version = carried.written_by(home)
    readers = GIVEN_FORM + (f" ({carried.CONFIG} names transformers {version})" if version else "")
    return Shipped(usual, readers, passed_over)


def _cast(
    model: PreTrainedModel, dtype: torch.dtype | None, usual: torch.dtype, given: Mapping[str, stored.Stored]
) -> dict[str, torch.Tensor]:
    """A model's tensors in the dtype that was asked for, or each in the one it came in; tied ones stay one tensor.

    Where dtypes were mixed, what has another name in the model than it had in its file is cast once it has that.
    """
    own = {name: stored.KINDS[one.dtype] for name, one in given.items() if one.dtype in stored.KINDS}
    mixed = dtype is None and len(set(own.values())) > 1
    done: dict[tuple[Any, ...], torch.Tensor] = {}
    state = {}
    for name, tensor in model.state_dict().items():
        kind = dtype or own.get(name, tensor.dtype if mixed else usual)
        state[name] = done.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), held(name, tensor, kind))
    return state


def _save(model: PreTrainedModel, folder: Path, state: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    """As transformers writes it, in shards where it is large."""
    transformers_logging.disable_progress_bar()  # a bar per file would be noise
    before = model.config.dtype
    own = model.generation_config
    model.generation_config = GenerationConfig()  # older transformers raise on a checkpoint's odd settings, at the end
    try:
        distinct = {tensor.data_ptr(): tensor.nbytes for tensor in state.values()}
        with outputs.full_disk_explained(folder, sum(distinct.values())):
            model.save_pretrained(folder, state_dict=dict(state))
    finally:
        model.generation_config = own
    own.to_json_file(folder / GENERATION_CONFIG_NAME, use_diff=True, keys_to_pop=["compile_config"])
    model.config.dtype = dtype  # save_pretrained declares the dtype of the model, not of what it writes
    model.config.save_pretrained(folder)
    model.config.dtype = before


def write_adapter(model: PeftModel, folder: Path) -> None:
    """Our own adapter alone, float32."""
    settings = model.peft_config["default"]
    settings.base_model_name_or_path = adapters.in_full(settings.base_model_name_or_path or "")
    model.save_pretrained(folder)


def _changed(config: PreTrainedConfig, given: PreTrainedConfig) -> dict[str, object]:
    """What a model's configuration says otherwise than the one it came with: rows of the embeddings, tied ends."""
    now, before = config.get_text_config(), given.get_text_config()
    changed = {"vocab_size": now.vocab_size} if now.vocab_size != before.vocab_size else {}
    if says_tied(config) != says_tied(given):
        changed["tie_word_embeddings"] = says_tied(config)
    return changed


def says_tied(config: PreTrainedConfig) -> bool:
    """Whether a configuration says that both ends are one matrix; some do not know the word."""
    return bool(getattr(config, "tie_word_embeddings", False))
