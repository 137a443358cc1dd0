"""What `expunge plan` shows: a rendered example with its loss mask, and which parameters would move."""

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from expunge.data.rows import Row
from expunge.data.tokens import Rendering, encode_row
from expunge.errors import InputError
from expunge.model import quantised
from expunge.model.adapter import Adapter
from expunge.model.select import choose, choose_of_adapter, select
from expunge.model.trace import unfit

MOST_TOKENS = 60
PAST = 20  # tokens shown before the first that counts


def rendered_example(row: Row, rendering: Rendering, tokenizer: PreTrainedTokenizerBase, show_rows: bool) -> list[str]:
    """One row token by token; tokens that count in the loss stand in [brackets].

    Without `show_rows` each token's letters are replaced by x and digits by 0, so that the mask can be checked and
    the row not read. Of a long row the tokens around the first that counts are shown.
    """
    ids, counted = encode_row(row, rendering, tokenizer)
    special = set(tokenizer.all_special_ids)
    first = max(0, counted.index(True) - PAST) if counted.index(True) >= MOST_TOKENS else 0
    shown = [f"{first} tokens before ..."] if first else []
    for token, counts in list(zip(ids, counted, strict=True))[first : first + MOST_TOKENS]:
        text = tokenizer.decode([token])
        text = text if show_rows or token in special else _placeholder(text)
        text = text.replace("\n", "\\n").replace(" ", "·")
        shown.append(f"[{text}]" if counts else text)
    more = len(ids) - first - MOST_TOKENS
    rest = f" ... {more} more tokens" if more > 0 else ""
    heading = f"{row.name} as the model reads it; [tokens] count in the loss" + (
        "" if show_rows else ", letters and digits are placeholders"
    )
    return [heading, "  " + " ".join(shown) + rest]


def subspace_plan(
    config: PreTrainedConfig,
    asked: str,
    device: torch.device,
    trust_remote_code: bool,
    given: Adapter | None = None,
    linear: bool = False,
) -> str:
    """Which subspace a run would take, from the configurations of model and adapter alone: no weights are made.

    `linear`: the method moves linear layers alone.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        if given:
            model = _wrapped(model, given)
        count = sum(parameter.numel() for parameter in model.parameters())
        if given:
            name, reason = choose_of_adapter(asked, linear, quantised.scheme(config), count, device)
        else:
            name, reason = choose(asked, count, device)
        odd = unfit(model) if linear else ()
        chosen = select(model, name, device, linear="all" if linear else "", unfit=odd)
        moving = sum(tensor.numel() for tensor in chosen.movable.values())
    return f"parameters: {count:,}; subspace: {name} ({reason}), {moving:,} would move"


def _wrapped(model: PreTrainedModel, given: Adapter) -> PeftModel:
    configuration = given.configuration()
    try:
        return get_peft_model(model, configuration)
    except Exception as error:  # of peft, for settings of the wrong type
        reason = f"peft refuses its settings ({type(error).__name__})"
        raise InputError(f"{given.folder}: {reason}. Save the adapter anew.") from None


def _placeholder(text: str) -> str:
    return "".join("0" if c.isdigit() else "x" if c.isalpha() else c for c in text)
