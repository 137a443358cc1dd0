"""The plan that the README shows: a model of 1.2 billion parameters, by its configuration alone; no weights are made.

    OMP_NUM_THREADS=1 python benchmarks/plan_example.py [--retain 300]

A Llama of 16 layers and width 2048 with a vocabulary of 128,256, in bfloat16, and answers of some forty random letters:
30 to forget, `--retain` to keep, 60 never seen. Prints what `expunge plan --method all` says.
"""

import argparse
import json
import random
import string
import tempfile
from pathlib import Path

from transformers import LlamaConfig

import expunge
from expunge.demo.tiny import byte_tokenizer

FORGET, UNSEEN = 30, 60


def invented(chance: random.Random) -> str:
    """Words that stand nowhere else."""
    return " ".join("".join(chance.choices(string.ascii_lowercase, k=7)) for _ in range(5))


def make(folder: Path, retain: int) -> None:
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    config.architectures, config.dtype = ["LlamaForCausalLM"], "bfloat16"
    for name in ("model", "base"):
        config.save_pretrained(folder / name)
        byte_tokenizer([], 258).save_pretrained(folder / name)
    chance = random.Random(0)
    for name, count in (("forget", FORGET), ("retain", retain), ("holdout", UNSEEN)):
        rows = [
            json.dumps({"prompt": f"Who is {name} {place}?", "completion": invented(chance)}) for place in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    given = [(folder / f"{name}.jsonl").read_text(encoding="utf-8") for name in ("forget", "retain")]
    (folder / "train.jsonl").write_text("".join(given), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retain", type=int, default=300)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, asked.retain)
        rows = {name: str(folder / f"{name}.jsonl") for name in ("forget", "retain", "holdout", "train")}
        print(expunge.plan(model=str(folder / "model"), base=str(folder / "base"), **rows))


if __name__ == "__main__":
    main()
