"""Outputs as an older transformers serves them: `make test-serving`, in an environment of its own.

    OLDER serving.py make FOLDER       tiny models, an adapter and rows, written by the older transformers and peft
    OURS serving.py unlearn FOLDER     each unlearned by the command line, with the logits that the newer one gives
    OLDER serving.py check FOLDER      loads what was written: logits, tokens and chat template as they should be

The older one knows nothing of this package. A folder whose files were saved anew by the newer transformers, as ours
were once, must not pass, and is checked beside (`saved-anew`).
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
KINDS: dict[str, dict[str, Any]] = {
    "llama": SIZES | {"num_key_value_heads": 2, "rope_theta": 500.0, "max_position_embeddings": 128},
    "qwen3": SIZES | {"num_key_value_heads": 1, "head_dim": 16, "rope_theta": 1e6, "tie_word_embeddings": True},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128},
    "gemma2": SIZES | {"num_key_value_heads": 1, "head_dim": 16, "query_pre_attn_scalar": 16},
}
ADAPTER, ANEW = "adapter", "saved-anew"
TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
TEXT = "Where does Ada Abend live? In Arden."
ROWS = {"forget": 4, "retain": 8, "holdout": 8}


def tokenizer_of() -> Any:
    """One token a byte, and two special ones."""
    vocabulary = {token: place for place, token in enumerate(["<s>", "</s>", *sorted(ByteLevel.alphabet())])}
    plain = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    made.chat_template, made.model_max_length = TEMPLATE, 96
    return made


def make(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    tokenizer = tokenizer_of()
    for name, count in ROWS.items():
        rows = [{"prompt": f"{name} {n}?", "completion": f"{n * 37 % 100:02d}"} for n in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for kind, sizes in KINDS.items():
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(
            kind, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, **sizes
        )
        model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(folder / kind)
        tokenizer.save_pretrained(folder / kind)
    base = AutoModelForCausalLM.from_pretrained(folder / "llama")
    wrapped = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, tensor in wrapped.named_parameters():
            if "lora_B" in name:
                tensor.normal_(0, 0.1)
    wrapped.save_pretrained(folder / ADAPTER)
    tokenizer.save_pretrained(folder / ADAPTER)


def unlearn(folder: Path) -> None:
    rows = [part for name in ROWS for part in (f"--{name}", str(folder / f"{name}.jsonl"))]
    for kind in (*KINDS, ADAPTER):
        output = folder / f"{kind}-unlearned"
        how = [
            "--method",
            "gradient_ascent",
            "--options.epochs",
            "1",
            "--options.learning-rate",
            "1e-3",
            "--force",
            "--join",
            "space",
            "--device",
            "cpu",
        ]
        given = ["--model", str(folder / kind), *(("--subspace", "adapter") if kind == ADAPTER else ())]
        command = [sys.executable, "-m", "expunge", "unlearn", *given, *rows, *how, "--output", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 3):
            raise SystemExit(f"{kind}: {done.stderr}")
        np.savez(folder / f"{kind}.npz", before=logits(folder, folder / kind), after=logits(folder, output))
    anew = folder / f"{ANEW}-unlearned"
    AutoModelForCausalLM.from_pretrained(folder / "llama-unlearned").save_pretrained(anew)
    AutoTokenizer.from_pretrained(folder / "llama-unlearned").save_pretrained(anew)
    np.savez(folder / f"{ANEW}.npz", before=logits(folder, folder / "llama"), after=logits(folder, anew))


@torch.no_grad()
def logits(folder: Path, path: Path) -> Any:
    if (path / "adapter_config.json").exists():
        from peft import PeftModel

        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "llama"), path)
    else:
        model = AutoModelForCausalLM.from_pretrained(path)
    return model.eval()(torch.tensor([list(range(2, 42))])).logits.float().numpy()


def faults(folder: Path, kind: str) -> list[str]:
    """What is not as it should be in an output, as this transformers reads it."""
    output, source = folder / f"{kind}-unlearned", folder / ("llama" if kind == ANEW else kind)
    expected = np.load(folder / f"{kind}.npz")
    found = []
    if not np.allclose(logits(folder, output), expected["after"], atol=1e-4):
        found.append("other logits than the newer transformers gives")
    if np.allclose(expected["before"], expected["after"], atol=1e-4):
        found.append("nothing moved")
    try:
        before, after = AutoTokenizer.from_pretrained(source), AutoTokenizer.from_pretrained(output)
    except ValueError as error:
        return [*found, str(error)]
    talk = [{"role": "user", "content": TEXT}]
    if after(TEXT).input_ids != before(TEXT).input_ids or after.model_max_length != before.model_max_length:
        found.append("another tokenizer")
    if after.apply_chat_template(talk, tokenize=False) != before.apply_chat_template(talk, tokenize=False):
        found.append("another chat template")
    return found


def check(folder: Path) -> None:
    bad = {kind: found for kind in (*KINDS, ADAPTER) if (found := faults(folder, kind))}
    if not faults(folder, ANEW):
        bad["the check itself"] = ["a folder saved anew by the newer transformers passes"]
    for kind, found in bad.items():
        print(f"{kind}: {'; '.join(found)}")
    print(f"transformers {transformers.__version__}: {len(KINDS) + 1} outputs, {len(bad)} with faults")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    step, place = {"make": make, "unlearn": unlearn, "check": check}[sys.argv[1]], Path(sys.argv[2])
    place.mkdir(parents=True, exist_ok=True)
    step(place)
