"""Every tiny problem of the tests: models by family, rows and windows, and a `Problem` made of them.

Two kinds of model, both with random weights from a seed and two layers unless asked otherwise. *Text* models read the
byte tokenizer's 258 tokens, in float32, as what a user has. *Oracle* models (`model_of`, `lora_of`) have 13 tokens and
float64 throughout, norms included, for comparisons to the last digits. No builder draws from the global chance.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from expunge import registry
from expunge.data.rows import Row
from expunge.data.tokens import Rendering, Window, encode
from expunge.demo.tiny import byte_tokenizer
from expunge.model.select import select
from expunge.problem import Problem, Split
from expunge.runs.distributed import Runtime

FAMILIES = ("llama", "olmo", "gpt2", "opt")
TARGETS = {  # of a LoRA: one layer of the attention and one of the rest at least
    "llama": ["q_proj", "k_proj", "down_proj"],
    "olmo": ["q_proj", "o_proj", "up_proj"],
    "olmo2": ["q_proj", "o_proj", "up_proj"],
    "gpt2": ["c_attn", "c_fc"],
    "opt": ["q_proj", "fc1"],
}
VOCABULARY = 13  # of oracle models
TEXT_VOCABULARY = 258  # of text models: one token a byte, begin and end
METHODS = registry.names("methods")
Moved = Callable[[int], Sequence[int]] | None  # of so many layers those that may move, see `Needs.layers`
FEW: dict[str, Any] = {"steps": 6, "epochs": 3, "replay_texts": 8, "replay_tokens": 16}
FEW |= {"learning_rate": 1e-3, "forget_rows": 4, "rows": 4, "refresh_every": 2, "chunk_rows": 5}
FEW["budget"] = 1e-3  # the logits of a random model are small whatever its weights are: no step reaches a larger one


def short(name: str, **others: Any) -> Any:
    """A method with few steps; of `others`, too, it takes those options that it has."""
    kind = registry.load("methods", name)
    return kind(**{key: value for key, value in (FEW | others).items() if key in kind.__dataclass_fields__})


# Models


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Chance from a seed inside, and as it was outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def config_of(
    family: str, *, width: int = 32, layers: int = 2, heads: int = 2, context: int = 64, inner: int = 0, **more: Any
) -> Any:
    """A configuration; the first tokens are begin and end, which also pads. "olmo2" normalises queries and keys."""
    from transformers import GPT2Config, LlamaConfig, Olmo2Config, OlmoConfig, OPTConfig

    given = {"vocab_size": TEXT_VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1} | more
    if family == "gpt2":
        return GPT2Config(n_embd=width, n_layer=layers, n_head=heads, n_positions=context, **given)
    given |= {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    given |= {"max_position_embeddings": context}
    if family == "opt":
        return OPTConfig(word_embed_proj_dim=width, ffn_dim=inner or 2 * width, **given)
    kinds: dict[str, Any] = {"llama": LlamaConfig, "olmo": OlmoConfig, "olmo2": Olmo2Config}
    if family == "llama":
        given = {"tie_word_embeddings": True} | given
    return kinds[family](intermediate_size=inner or width * 8 // 3, **given)


def text_model(family: str = "llama", seed: int = 0, **sizes: Any) -> Any:
    """In float32 and evaluation mode; `sizes` as `config_of` takes them."""
    from transformers import AutoModelForCausalLM

    with seeded(seed):
        return AutoModelForCausalLM.from_config(config_of(family, **sizes)).float().eval()


def model_of(family: str, seed: int = 7, tied: bool = True) -> Any:
    """An oracle model of width 8, with grouped heads for Llama."""
    with seeded(seed):
        return _oracle(family, tied)


def lora_of(family: str, fresh: bool = False, **settings: Any) -> Any:
    """An oracle model with a LoRA of rank 2; unless fresh, B is not zero, so that A has gradients too."""
    usual = {"r": 2, "lora_alpha": 3, "target_modules": TARGETS[family], "fan_in_fan_out": family == "gpt2"}
    with seeded(7):
        wrapped = get_peft_model(_oracle(family), LoraConfig(task_type="CAUSAL_LM", **usual | settings)).double()
        with torch.no_grad():
            for name, tensor in wrapped.named_parameters():
                if "lora" in name and not fresh:
                    tensor += 0.3 * torch.randn_like(tensor)
    return wrapped.eval()


def _oracle(family: str, tied: bool = True) -> Any:
    from transformers import AutoModelForCausalLM

    more: dict[str, Any] = {"vocab_size": VOCABULARY, "tie_word_embeddings": tied}
    own: dict[str, dict[str, Any]] = {
        "llama": {"num_key_value_heads": 1},
        "opt": {"dropout": 0.0},
        "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    }
    more |= own.get(family, {})
    made = AutoModelForCausalLM.from_config(config_of(family, width=8, inner=12, context=16, **more))
    with torch.no_grad():
        for tensor in made.parameters():
            tensor += 0.3 * torch.randn_like(tensor)  # away from the special values of a fresh model
    for module in made.modules():
        if type(module).__name__ in ("LlamaRMSNorm", "OlmoLayerNorm"):
            module.forward = _wide_norm(module)
    return made.double().eval()


def _wide_norm(module: Any) -> Any:
    """RMSNorm, or OLMo's layer norm without weights, in the dtype of what comes in; theirs go through float32."""

    def forward(x: Tensor) -> Tensor:
        if not hasattr(module, "weight"):
            return torch.nn.functional.layer_norm(x, x.shape[-1:])
        weight: Tensor = module.weight
        return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + module.variance_epsilon)

    return forward


def write_model(folder: Path, family: str = "llama", **sizes: Any) -> Path:
    """A folder with a text model and its tokenizer, as a user has one; returns it."""
    text_model(family, **sizes).save_pretrained(folder)
    byte_tokenizer([], TEXT_VOCABULARY).save_pretrained(folder)
    return folder


# Rows and splits


def rows_of(name: str, completions: Iterable[str], documents: Iterable[str] = ()) -> tuple[Row, ...]:
    """An answer to "NAME 0?", "NAME 1?", ... for each completion, then the documents.

    Rows with an even line have one other text that could stand there, the others two.
    """
    answers = [Row(name, line, "answer", f"{name} {line}?", said) for line, said in enumerate(completions)]
    rows = (*answers, *(Row(name, line, "document", "", text) for line, text in enumerate(documents)))
    return tuple(replace(row, alternates=("not that", "7")[: 1 + row.line % 2]) for row in rows)


def split_of(
    name: str,
    counts: Sequence[int],
    seed: int = 0,
    *,
    lengths: tuple[int, int] = (2, 9),
    ids: tuple[int, int] = (0, VOCABULARY),
    share: float = 0.7,
) -> Split:
    """Rows of `counts` windows of random ids, some `lengths` long; a window's first token is never a target, its last
    is one, those between are with the probability `share`."""
    random = torch.Generator().manual_seed(seed)
    windows = []
    for row, count in enumerate(counts):
        for _ in range(count):
            length = int(torch.randint(lengths[0], lengths[1] + 1, (1,), generator=random))
            tokens = torch.randint(*ids, (length,), generator=random).tolist()
            counted = [False] + [bool(torch.rand(1, generator=random) < share) for _ in range(length - 1)]
            counted[-1] = True
            windows.append(Window(row, tuple(tokens), tuple(counted)))
    rows = tuple(Row(name, line, "document", "", f"{name} {line}") for line in range(len(counts)))
    return Split(name, rows, tuple(windows))


def encoded(name: str, rows: Sequence[Row], tokenizer: Any, context: int = 64) -> Split:
    return Split(name, tuple(rows), tuple(encode(rows, Rendering(context=context), tokenizer)))


# Problems


def problem_of(
    model: Any,
    splits: Mapping[str, Split | Sequence[int]] | None = None,
    *,
    tokenizer: Any = None,
    context: int = 16,
    **more: Any,
) -> Problem:
    """A model that is there already, whose parameters move where they require a gradient.

    In place of a split, the numbers of windows of its rows, with ids from a seed of its own; without any, "retain" with
    rows of one to five windows.
    """
    given = {"retain": (1, 1, 3, 1, 2, 5, 1)} if splits is None else splits
    made = {
        name: one if isinstance(one, Split) else split_of(name, one, seed)
        for seed, (name, one) in enumerate(given.items())
    }
    movable = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    usual: dict[str, Any] = {"runtime": Runtime("cpu"), "rendering": Rendering(context=context), "movable": movable}
    return Problem(model, tokenizer, splits=made, **usual | more)


def text_problem(
    rows: Mapping[str, Split | Sequence[Row]],
    subspace: str = "full",
    *,
    family: str = "llama",
    dtype: torch.dtype = torch.float32,
    context: int = 64,
    runtime: Runtime | None = None,
    moved: Moved = None,
    linear: bool = False,
    **sizes: Any,
) -> Problem:
    """A text model with rows, of which a subspace may move: of the layers `moved`, of `linear` ones (see `Needs`). Its
    LoRA always begins with the same matrices."""
    tokenizer, runtime = byte_tokenizer([], TEXT_VOCABULARY), runtime or Runtime("cpu")
    model = text_model(family, context=context, **sizes).to(runtime.device, dtype)
    splits = {
        name: one if isinstance(one, Split) else encoded(name, one, tokenizer, context) for name, one in rows.items()
    }
    with seeded(0):
        chosen = select(model, subspace, runtime.device, moved, "all" if linear else "")
    for tensor in chosen.movable.values():
        tensor.data = tensor.data.to(dtype)
    return problem_of(
        chosen.model, splits, tokenizer=tokenizer, context=context, adapter=chosen.adapter, runtime=runtime
    )


def mixed(subspace: str = "full", rows: int = 8, moved: Moved = None, linear: bool = False) -> Problem:
    """Forget, retain and unseen rows: so many answers and two documents in each."""
    return text_problem(
        {
            name: rows_of(
                name, [f"{n * 37 + place}" for n in range(rows)], [f"{name} is {n} words long" for n in (0, 1)]
            )
            for place, name in enumerate(("forget", "retain", "unseen"))
        },
        subspace,
        heads=4,
        moved=moved,
        linear=linear,
    )


def problem_for(method: str, subspace: str) -> Problem:
    """A mixed problem with rows enough for a method, of which that moves what the method declares movable."""
    needs = short(method).needs
    problem = mixed(subspace, max(8, needs.fewest_retain), needs.layers, needs.linear)
    forget = problem.splits["forget"]
    fitting = [place for place, row in enumerate(forget.rows) if not needs.of_rows(row)]
    return replace(problem, splits={**problem.splits, "forget": forget.of(fitting, "forget")})


def uneven(subspace: str = "full", rows: int = 9) -> Problem:
    """In float64, answers and documents of many lengths in each split."""
    return text_problem(
        {
            name: rows_of(
                name,
                ["7" * (n + place + 1) for n in range(rows)],
                [f"{name} is {'very ' * n}long" for n in range(2)],
            )
            for place, name in enumerate(("forget", "retain", "unseen"))
        },
        subspace,
        width=16,
        dtype=torch.float64,
    )
