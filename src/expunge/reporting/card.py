"""The model card: what the model in this folder is, and where its evidence lies."""

from msgspec import UNSET

from expunge.reporting import tables
from expunge.reporting.markdown import escaped, paragraph
from expunge.reporting.record import Record, Saved
from expunge.reporting.words import duration

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
EVIDENCE = (
    "The evidence: [expunge/report.html](expunge/report.html), also as [Markdown](expunge/report.md) and as a "
    "[record](expunge/record.json)."
)
ELSEWHERE = "The evidence (report, record, numbers) is kept by who made this model."
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM takes for --max-lora-rank


def render(record: Record, elsewhere: bool = False) -> str:
    """README.md of the output folder, or of the model where the evidence does not lie beside it (`elsewhere`). Holds no
    row text, only the verdict and hashes."""
    headline, save = tables.headline(record), record.save
    is_adapter = save is not None and save.form == "adapter"
    parts = [
        FRONT.format(library="peft" if is_adapter else "transformers"),
        "# An unlearned adapter" if is_adapter else "# An unlearned model",
        _what(record),
        LOADING_OVER_BASE if is_adapter else LOADING,
        SERVING_OVER_BASE.format(rank=_rank(save)) if save and is_adapter else SERVING,
        JUDGE_AGAIN,
        f"**{headline.passes.symbol} {escaped(headline.passes.word.capitalize())}.** {escaped(headline.sentence)}",
        "\n".join(f"- {panel.title}: {panel.badge.symbol} {escaped(panel.badge.word)}" for panel in headline.panels),
        ELSEWHERE if elsewhere else EVIDENCE,
        "## Limits",
        "\n".join(f"- {paragraph(limit)}" for limit in record.limits) or "- The record names no limits.",
    ]
    return "\n\n".join(parts) + "\n"


def _what(record: Record) -> str:
    hashes, forget, save = record.hashes, record.data.get("forget"), record.save
    made = f"the method {escaped(record.method.name)}" if record.method and record.method.name else "expunge"
    count = f"{forget.rows} training rows" if forget else "chosen training rows"
    is_adapter = save is not None and save.form == "adapter"
    kind = "An adapter of a causal language model" if is_adapter else "A causal language model"
    lines = [
        f"{kind} from which the influence of {count} was removed as far as the evidence below shows, "
        f"with {made}, on {escaped(record.created)[:10]}, in {duration(sum(record.seconds.values()))}.",
        "",
        f"- Original model: {_hash(hashes.get('model'))}",
        f"- Forget rows: {_hash(hashes.get('forget'))}",
        f"- This model: {_hash(hashes.get('output'))}",
    ]
    if is_adapter:
        lines.append(f"- Its base, unchanged (named in adapter_config.json): {_hash(hashes.get('output_base'))}")
    return "\n".join([*lines, *(_written(save) if save else ())])


def _written(save: Saved) -> list[str]:
    """How the weights lie there, and who reads them."""
    form = ", ".join(part for part in (save.form, save.dtype) if part)
    lines = [f"- Weights: {escaped(form)}", *([f"- Read by {paragraph(save.readers)}."] if save.readers else [])]
    notes = " ".join(part for part in (save.note, save.passed_over) if isinstance(part, str) and part)
    return [*lines, *(["", paragraph(notes)] if notes else [])]


def _rank(save: Saved) -> str:
    """The least that holds the adapter's largest rank, where that is known."""
    largest = 0 if save.ranks is UNSET else max(save.ranks.values(), default=0)
    return str(next((rank for rank in RANKS if rank >= largest), largest)) if largest else "RANK"


def _hash(value: str | None) -> str:
    return escaped(value) if value else "not recorded"
