"""The model card: what the model in this folder is, and where its evidence lies."""

from collections.abc import Mapping
from typing import Any

from expunge.reporting import tables
from expunge.reporting.markdown import escaped, paragraph
from expunge.reporting.words import duration

Record = Mapping[str, Any]
FRONT = """---
library_name: {library}
tags:
- unlearning
---"""
LOADING = """```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(OUT)
```"""
LOADING_OVER_BASE = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), OUT)
```"""

SERVING = """```bash
vllm serve OUT
python convert_hf_to_gguf.py OUT --outfile out.gguf  # llama.cpp and Ollama; then llama-quantize
```"""
SERVING_OVER_BASE = """```bash
vllm serve BASE --enable-lora --lora-modules unlearned=OUT --max-lora-rank {rank}
python convert_lora_to_gguf.py OUT --base BASE --outfile out.gguf  # llama.cpp and Ollama
```"""
JUDGE_AGAIN = (
    "What is quantised is another model: rounding may undo what was done. Judge it again as it is served, with "
    "`expunge evaluate --model ORIGINAL --endpoint URL --unlearned OUT` and the rows, or its file, with "
    "`expunge evaluate --model ORIGINAL --unlearned out.gguf`."
)
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM takes for --max-lora-rank


def render(record: Record) -> str:
    """README.md of the output folder. Holds no row text and no row names, only the verdict and hashes."""
    tables.check(record)
    headline = tables.headline(record)
    is_adapter = (record["save"] or {}).get("form") == "adapter"
    parts = [
        FRONT.format(library="peft" if is_adapter else "transformers"),
        "# An unlearned adapter" if is_adapter else "# An unlearned model",
        _what(record),
        LOADING_OVER_BASE if is_adapter else LOADING,
        SERVING_OVER_BASE.format(rank=_rank(record["save"])) if is_adapter else SERVING,
        JUDGE_AGAIN,
        f"**{headline.passes.symbol} {escaped(headline.passes.word.capitalize())}.** {escaped(headline.sentence)}",
        "\n".join(f"- {panel.title}: {panel.badge.symbol} {escaped(panel.badge.word)}" for panel in headline.panels),
        "The evidence: [expunge/report.html](expunge/report.html), also as [Markdown](expunge/report.md) and as a "
        "[record](expunge/record.json).",
        "## Limits",
        "\n".join(f"- {paragraph(limit)}" for limit in record["limits"]) or "- The record names no limits.",
    ]
    return "\n\n".join(parts) + "\n"


def _what(record: Record) -> str:
    hashes, method, save = record["hashes"], record["method"] or {}, record["save"] or {}
    rows = (record["data"].get("forget") or {}).get("rows")
    made = f"the method {escaped(str(method['name']))}" if method.get("name") else "expunge"
    count = f"{rows} training rows" if rows is not None else "chosen training rows"
    form = ", ".join(str(save[key]) for key in ("form", "dtype") if save.get(key))
    kind = "An adapter of a causal language model" if save.get("form") == "adapter" else "A causal language model"
    lines = [
        f"{kind} from which the influence of {count} was removed as far as the evidence below shows, "
        f"with {made}, on {escaped(str(record['created'])[:10])}, in {duration(sum(record['seconds'].values()))}.",
        "",
        f"- Original model: {_hash(hashes.get('model'))}",
        f"- Forget rows: {_hash(hashes.get('forget'))}",
        f"- This model: {_hash(hashes.get('output'))}",
    ]
    if save.get("form") == "adapter":
        lines.append(f"- Its base, unchanged (named in adapter_config.json): {_hash(hashes.get('output_base'))}")
    if form:
        lines.append(f"- Weights: {escaped(form)}")
    if save.get("readers"):
        lines.append(f"- Read by {paragraph(str(save['readers']))}.")
    notes = [str(save[key]) for key in ("note", "passed_over") if save.get(key)]
    return "\n".join([*lines, *(["", paragraph(" ".join(notes))] if notes else [])])


def _rank(save: Record) -> str:
    """The least that holds the adapter's largest rank, where that is known."""
    largest = max((save.get("ranks") or {}).values(), default=0)
    return str(next((rank for rank in RANKS if rank >= largest), largest)) if largest else "RANK"


def _hash(value: str | None) -> str:
    return escaped(value) if value else "not recorded"
