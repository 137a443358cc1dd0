"""Loading causal language models and tokenizers from folders or hub names: safetensors only, explicit dtype.

A folder may hold a PEFT adapter in place of a whole model: then the model is its base plus the adapter (see
`model.adapter`). `check` looks at a folder without loading weights, so that wrong input is answered at once.
"""

import logging
import reprlib
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto import modeling_auto
from transformers.utils import logging as transformers_logging

from expunge.config.flags import Trust
from expunge.errors import InputError, first_line
from expunge.files import hashing
from expunge.files.reading import check_inside, check_regular
from expunge.model import adapter as adapters
from expunge.model import gguf, quantised, sound, stored
from expunge.model.adapter import Adapter, settings_of
from expunge.model.save import says_tied
from expunge.model.source import TOKENIZERS, Source, has_tokenizer, is_hub_name

MOST_CONTEXT = 1024
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in stored.KINDS.values()}


def check(path: str, role: str, trust: Trust | None = None, weights: bool = True) -> Source:
    """What the path is. Raises `InputError` for a folder that is no causal language model or lacks a tokenizer or
    safetensors.

    Of an adapter, the adapter and its base are looked at; a tokenizer beside either will do. Names that are not
    folders are taken for hub names and left to `model_of`.
    Without `weights`, they may lack.
    """
    folder, file = Path(path), None if is_hub_name(path) else gguf.file_of(path)
    if file:
        gguf.check(file, role)
    elif not is_hub_name(path):
        if not folder.is_dir():
            raise InputError(f"{path}: no such folder for --{role}. Give a model folder or a hub name (owner/name).")
        _check_pieces(folder)
    source = Source.of(path, trust)
    if source.adapter and not file:
        _check_base(source.adapter, source.trust)
    elif not file and not is_hub_name(path):
        _check_whole(path, role, source.trust, weights)
    return source


def _check_whole(path: str, role: str, trust: Trust, weights: bool) -> None:
    """Raises `InputError` where a folder is not to be read as a whole model of a role."""
    folder = Path(path)
    _check_config(folder, trust)
    _check_weights(folder, trust.allow_pickle)
    if weights and not stored.files(folder):
        pickled = [file.name for file in folder.glob("*.bin")] + [file.name for file in folder.glob("*.pt")]
        if not pickled:
            raise InputError(f"{path}: the folder holds no weights (model.safetensors){stored.instead(folder)}.")
        if not trust.allow_pickle:
            raise InputError(
                f"{path}: only pickle weights ({pickled[0]}), which can run code when loaded. Convert them to "
                "safetensors, or pass --allow-pickle if you trust their origin."
            )
    if weights:
        stored.check(folder)
    if role != "adapter-base" and not has_tokenizer(folder):
        raise InputError(f"{path}: the folder has no tokenizer (tokenizer.json). Save the tokenizer beside the model.")


def twins(path: str) -> list[str]:
    """The retrained models that `--retrained` names: one folder or hub name, or all folders seed-N in one folder."""
    folder = Path(path)
    several = sorted(folder.glob("seed-*"), key=lambda one: (len(one.name), one.name)) if folder.is_dir() else []
    return [str(one) for one in several if one.is_dir()] or [path]


def load_tokenizer(path: str, trust: Trust | None = None) -> PreTrainedTokenizerBase:
    """`tokenizer_of` what lies at a path."""
    return tokenizer_of(Source.of(path, trust))


def load_model(path: str, dtype: torch.dtype, device: torch.device, trust: Trust | None = None) -> PreTrainedModel:
    """`model_of` what lies at a path."""
    return model_of(Source.of(path, trust), dtype, device)


def tokenizer_of(source: Source) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a model; of an adapter, the one beside it, else its base's.

    Raises `InputError` where there is none or it cannot give offsets.
    """
    path = source.tokenizer_at
    transformers_logging.set_verbosity_error()  # windows are cut by us; its warning of long texts would be wrong
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=source.trust.trust_remote_code)
    except Exception as error:
        raise InputError(f"{path}: its tokenizer cannot be loaded ({first_line(error)}).{source.base_hint}") from None
    if not tokenizer.is_fast:
        raise InputError(f"{path}: its tokenizer gives no character offsets. Convert it to a fast one.")
    return tokenizer


def model_of(source: Source, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A causal language model in evaluation mode; an adapter's is a `PeftModel` around its base.

    `dtype` is that of what is not quantised; the adapter's own matrices are float32. Raises `InputError` where the
    files cannot be loaded or do not hold every weight.
    """
    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a line per layer and pass
    transformers_logging.disable_progress_bar()
    path, trust = source.path, source.trust
    if source.adapter:
        return adapters.attach(load_model(source.base, dtype, device, trust), source.adapter)
    scheme = quantised.scheme(source.config)
    if scheme:
        quantised.check_library(path, scheme)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=None if trust.allow_pickle else True,
            trust_remote_code=trust.trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are named below
            **({"device_map": {"": device}} if scheme else {}),  # quantised layers are made where they stay
        )
    except Exception as error:
        raise InputError(f"{path}: the model cannot be loaded ({first_line(error)}).") from None
    if getattr(model, "_hf_peft_config_loaded", False):  # transformers would load its base and say nothing
        raise InputError(f"{path}: this is an adapter. Download it to a folder, and give that.")
    stored.check_loaded(path, model, info)
    _settle_ends(model)
    model = model.eval() if scheme else model.to(device).eval()
    if scheme:
        quantised.check_runs(path, scheme, model)
    sound.check(path, model)
    return model  # type: ignore[no-any-return]


def _settle_ends(model: PreTrainedModel) -> None:
    """Ends that are called tied and are stored apart stay apart (transformers loads them so) and are called so, for
    loaders that would take one for the other."""
    head = model.get_output_embeddings()
    if head is not None and says_tied(model.config):
        model.config.tie_word_embeddings = head.weight is model.get_input_embeddings().weight


def context_of(model_config: PreTrainedConfig, asked: int | None = None) -> int:
    """Tokens a window may have: what was asked, at most what the positions allow, 1024 where nothing was asked."""
    shape = model_config.get_text_config() if hasattr(model_config, "get_text_config") else model_config
    positions = getattr(shape, "max_position_embeddings", None) or getattr(shape, "n_positions", None)
    most = int(positions) if positions else MOST_CONTEXT
    if asked is not None and not 8 <= asked <= most:
        raise InputError(f"--context {asked}: expected 8 to {most}, the positions that this model has.")
    return asked or min(most, MOST_CONTEXT)


def text_shape(config: PreTrainedConfig) -> PreTrainedConfig:
    """Of a composite configuration that of its text model, where that is a model of its own: enough for a plan."""
    text = config.get_text_config()
    return text if text.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else config


def identity(path: str) -> str:
    """Hash of the weights in a folder; the name of a hub model stands for itself."""
    files = weight_files(path)
    return hashing.file_hash(files) if files else path


def weight_files(path: str) -> list[Path]:
    """The files of a local folder that make up a model's (or an adapter's own) identity; empty for hub names."""
    folder = Path(path)
    kinds = ("*.safetensors", "*.json", "*.jinja", adapters.PICKLED)  # *.jinja: the chat template
    return [file for kind in kinds for file in sorted(folder.glob(kind))]


def _check_base(adapter: Adapter, trust: Trust) -> None:
    """Raises `InputError` where an adapter's base is missing, is an adapter itself, or has no tokenizer for it."""
    file = adapter.folder / adapters.SETTINGS
    if adapters.is_adapter(adapter.base):
        raise InputError(f"{file}: its base {adapter.base} is an adapter itself. Merge that into its own base first.")
    check(adapter.base, "adapter-base", trust)
    folders = [folder for folder in (adapter.folder, Path(adapter.base)) if folder.is_dir()]
    if not is_hub_name(adapter.base) and not any(has_tokenizer(folder) for folder in folders):
        raise InputError(f"{adapter.folder}: neither the adapter nor its base {adapter.base} has a tokenizer.")


def _check_config(folder: Path, trust: Trust) -> None:
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(f"{folder}: no config.json, so this is no model folder. Give one that save_pretrained wrote.")
    config = settings_of(file)
    family = config.get("model_type")
    if scheme := quantised.scheme(config):
        quantised.check_library(str(folder), scheme)
    if not trust.trust_remote_code:
        _check_architecture(file, config.get("architectures"))
    if str(family) not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not trust.trust_remote_code:
        own = "It comes with code of its own: pass --trust-remote-code if you trust its origin."
        raise InputError(
            f"{file}: model type {reprlib.repr(str(family))} is no causal language model that transformers knows. "
            f"{own if 'auto_map' in config else 'Give one that is.'}"
        )


def _check_architecture(file: Path, named: object) -> None:
    """Raises `InputError` where weights are of a class that transformers knows for another purpose."""
    classes = [one for one in named if isinstance(one, str)] if isinstance(named, list) else []
    mappings = {key: value for key, value in vars(modeling_auto).items() if key.endswith("MAPPING_NAMES")}
    causal = set(mappings.pop("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES").values())
    causal |= set(mappings.pop("MODEL_MAPPING_NAMES").values())  # without a head, which may be tied to the embeddings
    for purpose in ("SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION", "QUESTION_ANSWERING", "MASKED_LM"):
        others = set(mappings[f"MODEL_FOR_{purpose}_MAPPING_NAMES"].values()) - causal
        if classes and classes[0] in others:
            kind = purpose.lower().replace("_", " ").replace("masked lm", "filling gaps")
            raise InputError(
                f"{file}: its weights are those of {classes[0]} (for {kind}, as reward models are), and not of a "
                "causal language model. Give the causal language model itself."
            )


def _check_pieces(folder: Path) -> None:
    """Raises `InputError` for an adapter beside whole weights, and for a model or adapter one folder further down."""
    whole = [name for name in (stored.SINGLE, stored.INDEX, "pytorch_model.bin") if (folder / name).is_file()]
    if adapters.is_adapter(str(folder)) and whole:
        held = next((name for name in (adapters.WEIGHTS, adapters.PICKLED) if (folder / name).is_file()), None)
        raise InputError(
            f"{folder}: a whole model ({whole[0]}) and {adapters.SETTINGS} lie in one folder, so it could be read in "
            f"two ways. If the adapter was merged into the model, remove {adapters.SETTINGS}"
            f"{f' and {held}' if held else ''}; else put the adapter's files into a folder of their own."
        )
    if (folder / "config.json").is_file() or adapters.is_adapter(str(folder)):
        return
    for kind, name in (("an adapter", adapters.SETTINGS), ("a model", "config.json")):
        if below := sorted(file.parent for file in folder.glob(f"*/{name}")):
            more = f" (and {len(below) - 1} more)" if len(below) > 1 else ""
            raise InputError(f"{folder}: no config.json; {kind} lies one folder further down: give {below[0]}{more}.")


def _check_weights(folder: Path, pickle: bool) -> None:
    """Raises `InputError` where weights lie outside the folder: through a link, or by a name in the index of shards.

    The loader would follow both, and would take a shard for a pickle unless its name ends in .safetensors.
    """
    files = [*folder.glob("*.safetensors"), *(folder.glob("*.bin") if pickle else ())]
    for index in folder.glob("*.index.json"):
        names = settings_of(index).get("weight_map")
        if not isinstance(names, dict):
            raise InputError(f"{index}: no weight_map of names and files. Save the model anew.")
        for name in names.values():
            if not isinstance(name, str) or Path(name).name != name:
                raise InputError(f"{index}: names a file outside its folder. Save the model anew.")
            if not name.endswith(".safetensors") and not pickle and index.name.startswith("model.safetensors"):
                raise InputError(
                    f"{index}: names a file that is not safetensors, so it may be a pickle, which can run code when "
                    "loaded. Convert it, or pass --allow-pickle if you trust its origin."
                )
    for file in files:
        check_regular(file, "the file of weights", most=None)
        check_inside(file, folder, "the file of weights")
        stored.check_pointer(file)
    for file in (folder / name for name in TOKENIZERS if (folder / name).is_file()):
        stored.check_pointer(file)
