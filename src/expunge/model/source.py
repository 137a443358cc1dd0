"""What a path of a model is, asked once: whole model or adapter, and where base, tokenizer and configuration lie.

Made by `load.check` for what a command names and handed on from there. Only whether there is an adapter is looked at
when it is made; the rest is read when it is asked for, and kept, so that a plan needs no weights.
"""

import contextlib
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig

from expunge.config.flags import Trust
from expunge.errors import InputError, first_line
from expunge.model import adapter as adapters
from expunge.model import quantised, stored
from expunge.model.adapter import Adapter, settings_of
from expunge.model.carried import Origin

TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder or hub name, what the user allowed by flag when it is read, and the adapter that it is, if it is one.

    `base`: where the whole model lies, an adapter's base or the path itself.
    """

    path: str
    trust: Trust
    adapter: Adapter | None

    @classmethod
    def of(cls, path: str, trust: Trust | None = None) -> "Source":
        """Looks at a path. Raises `InputError` for an adapter that cannot be used."""
        said = trust or Trust()
        said = Trust(
            adapter_base=said.adapter_base, allow_pickle=said.allow_pickle, trust_remote_code=said.trust_remote_code
        )
        found = adapters.read(path, said.adapter_base, said.allow_pickle) if adapters.is_adapter(path) else None
        return cls(path=path, trust=said, adapter=found)

    @property
    def base(self) -> str:
        return self.adapter.base if self.adapter else self.path

    @property
    def base_hint(self) -> str:
        """What to do where an adapter's base is a hub name that cannot be had; empty for whole models."""
        if self.adapter is None or not is_hub_name(self.base):
            return ""
        return f" {self.base} is the base of {self.path}: where it lies in a folder, name that: --adapter-base FOLDER."

    @property
    def tokenizer_at(self) -> str:
        """Where the tokenizer lies; an adapter's beside it, else beside its base."""
        return self.base if self.adapter and not has_tokenizer(self.adapter.folder) else self.path

    @property
    def origin(self) -> Origin:
        """Where the files of the whole model and of the tokenizer come from."""
        return Origin(self.base, self.tokenizer_at)

    @cached_property
    def scheme(self) -> str | None:
        """How the weights of a local folder are quantised; None where they are not, and for hub names."""
        file = Path(self.base) / "config.json"
        return quantised.scheme(settings_of(file)) if file.is_file() else None

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The whole model's configuration, without weights; not to be changed. Raises `InputError`."""
        hint = " If it is an adapter, download it to a folder first." if is_hub_name(self.path) else ""
        hint = self.base_hint if self.adapter else hint
        try:
            return AutoConfig.from_pretrained(self.base, trust_remote_code=self.trust.trust_remote_code)
        except Exception as error:
            raise InputError(f"{self.base}: its configuration cannot be loaded ({first_line(error)}).{hint}") from None

    @cached_property
    def stored_dtype(self) -> torch.dtype:
        """The dtype of most of the whole model's numbers; what it declares where no files are here; float32 where it
        declares none."""
        with contextlib.suppress(InputError):  # a plan can do without weights, or with half of them
            if found := stored.dtype(stored.tensors(Path(self.base))):
                return found
        return getattr(self.config, "dtype", None) or torch.float32


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZERS)


def is_hub_name(path: str) -> bool:
    return not os.path.exists(path) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path) is not None
