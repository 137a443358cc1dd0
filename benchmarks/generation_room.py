"""What room made ahead for keys and values saves a generation, as ratios in one run.

    OMP_NUM_THREADS=1 python benchmarks/generation_room.py --output docs/results/generation.md

Greedy generation with the room of `expunge.model.key_values` and with the library's own cache, which grows: a Llama of
random weights with the shape of the LUME benchmark's models, prompts of random ids. Each round runs both, one after the
other; a ratio is that of one round. Seconds are processor time, so that other work on the machine counts little.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from expunge.model import generation, key_values
from expunge.runs.environment import environment

WIDTH, LAYERS, HEADS, CONTEXT, VOCABULARY = 256, 4, 8, 512, 2048
SHAPES = ((128, 50, 50), (128, 100, 150), (32, 100, 150), (1, 100, 150))  # prompts, their tokens, new tokens


def seconds(model: Any, ids: torch.Tensor, new: int) -> tuple[float, torch.Tensor]:
    begin = time.process_time()
    found = generation.generate(model, ids, torch.ones_like(ids), None, new)
    return time.process_time() - begin, found


def measure(model: Any, prompts: int, tokens: int, new: int, rounds: int) -> list[tuple[float, float]]:
    """Seconds of each round: with room, and with the library's cache. Both give the same tokens."""
    ids = torch.randint(2, VOCABULARY, (prompts, tokens), generator=torch.Generator().manual_seed(0))
    ours, theirs = key_values.with_room, lambda model, most: None
    found = []
    for _ in range(rounds):
        pair = []
        for generation.with_room in (ours, theirs):
            pair.append(seconds(model, ids, new))
        generation.with_room = ours
        assert torch.equal(pair[0][1], pair[1][1])
        found.append((pair[0][0], pair[1][0]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=WIDTH * 8 // 3,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
        )
    ).eval()
    machine = environment()
    lines = [
        "# Keys and values in room made ahead",
        "",
        "    OMP_NUM_THREADS=1 python benchmarks/generation_room.py --output docs/results/generation.md",
        "",
        "Greedy generation with room for keys and values that is made once, over the library's own cache, which copies",
        f"all that it holds at every token. A Llama of width {WIDTH} with {LAYERS} layers and random weights;",
        f"{arguments.rounds} interleaved rounds, processor time of one thread; the tokens are the same.",
        f"Machine: {machine['machine']}, torch {machine['versions']['torch']}, {machine['created'][:10]}.",
        "",
        "| prompts | tokens of each | new tokens | growing, s | room, s | ratio: median (smallest to largest) |",
        "| ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for prompts, tokens, new in SHAPES:
        found = np.array(measure(model, prompts, tokens, new, arguments.rounds))
        ratio = found[:, 0] / found[:, 1]
        room, growing = np.median(found, axis=0)
        lines.append(
            f"| {prompts} | {tokens} | {new} | {growing:.2f} | {room:.2f} | "
            f"{np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f}) |"
        )
        print(lines[-1], flush=True)
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
