"""What goes from the input's folder to the output's as it came: tokenizer, templates, settings, code, `config.json`.

Unlearning changes weights and nothing else. Saving such files anew would write them as this version of transformers has
them, which older loaders, converters and servers read otherwise or not at all (`rope_theta` moves into
`rope_parameters`, a tokenizer's class gets another name). So they are copied, byte for byte; in `config.json` what has
changed (dtype, rows of the embeddings, tied ends) is changed where it stands. Only files of known names go over: a
folder may hold weights in other formats, states of an optimiser, and the training's rows.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import snapshot_download

from expunge.files.reading import check_inside, check_regular
from expunge.model.adapter import settings_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONFIG, CODE = "config.json", "*.py"
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"),
    *("vocab*.json", "vocab*.txt", "normalizer.json", "*.model", "tokenizer.model.v*", "*.tiktoken", "tekken.json"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
)
MODEL = (
    *("generation_config.json", "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("LICENSE*", "NOTICE*", "USE_POLICY*"),
)
TYPED = ("dtype", "torch_dtype")  # the first since transformers 4.56, both read by 5


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model's files and its tokenizer's come from: folders, or names of the hub."""

    model: str
    tokenizer: str


def folder_of(path: str) -> Path | None:
    """A folder as it is; of a hub name, its files in the cache, fetched where they lack; None where they cannot be."""
    if Path(path).is_dir():
        return Path(path)
    try:
        return Path(snapshot_download(path, allow_patterns=[CONFIG, CODE, *TOKENIZER, *MODEL]))
    except Exception:  # offline, gated, gone: the caller saves what is in memory
        return None


def carry_tokenizer(path: str, tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Copies a tokenizer's files, with code of its own; saves it anew where there are none to copy."""
    source = folder_of(path)
    if source is None or not _copied(source, folder, _with_code(source, "tokenizer_config.json", TOKENIZER)):
        tokenizer.save_pretrained(folder)


def carry_settings(source: Path, folder: Path) -> None:
    """Copies what stands beside a model's weights, and nothing in its place where it is not there."""
    (folder / "generation_config.json").unlink(missing_ok=True)
    _copied(source, folder, _with_code(source, CONFIG, MODEL))


def carry_config(source: Path, folder: Path, changed: dict[str, object], dtype: torch.dtype | None) -> None:
    """`config.json` as it came, but for what `changed` and the `dtype`, where that is another one now."""
    content = settings_of(source / CONFIG)
    if not changed and dtype is None:
        shutil.copyfile(source / CONFIG, folder / CONFIG)
        return
    part = content.get("text_config")
    for key, value in changed.items():
        inner = isinstance(part, dict) and key not in content
        (part if inner else content)[key] = value  # type: ignore[index]
    if dtype is not None:
        name = str(dtype).removeprefix("torch.")
        for place in (content, *(one for one in content.values() if isinstance(one, dict))):
            place.update({key: name for key in TYPED if isinstance(place.get(key), str)})
        if not any(key in content for key in TYPED):
            content["torch_dtype"] = name
    (folder / CONFIG).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def written_by(source: Path) -> str | None:
    """The version of transformers that `config.json` says it was written by."""
    said = settings_of(source / CONFIG).get("transformers_version")
    return said if isinstance(said, str) and len(said) < 30 else None


def _with_code(source: Path, settings: str, names: Iterable[str]) -> tuple[str, ...]:
    """With code files, where settings name code of the folder's own (`auto_map`)."""
    file = source / settings
    return (*names, CODE) if file.is_file() and "auto_map" in settings_of(file) else tuple(names)


def _copied(source: Path, folder: Path, names: Iterable[str]) -> list[Path]:
    """Copies the files of these names (with shell wildcards). Raises `InputError` for links that lead elsewhere."""
    found = sorted({file for name in names for file in source.glob(name) if file.is_file()})
    for file in found:
        check_regular(file, "a file beside the weights")
        check_inside(file, source, "a file beside the weights")
        target = folder / file.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
    return found
