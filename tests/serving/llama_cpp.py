"""An output as llama.cpp converts it: `make test-llama-cpp OUTPUT=FOLDER`.

    python tests/serving/llama_cpp.py FOLDER SOURCES

SOURCES is the unpacked source distribution of llama-cpp-python, which carries llama.cpp and its converter. The output
is converted to GGUF in float32 and in float16 and read back as `--model FILE.gguf` is: the same tokens; in float32 the
same logits bit for bit; in float16 nearly. A folder with one weight changed must not pass, and is checked beside.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from expunge.model import gguf
from expunge.runs.workspace import CACHE

TEXT = "Where does Ada Abend live? In Ørsted Street 7, 東京.\n"
NEAR = 0.02  # total variation between next-token distributions, of rounding to float16


def converted(output: Path, sources: Path, file: Path, kind: str) -> Path:
    """The folder that the GGUF which llama.cpp makes of an output is read as."""
    (llama,) = sources.glob("*/vendor/llama.cpp")
    command = [sys.executable, str(llama / "convert_hf_to_gguf.py"), str(output), "--outfile", str(file)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(llama / "gguf-py"), *filter(None, sys.path)])}
    subprocess.run([*command, "--outtype", kind], check=True, env=environment, capture_output=True)
    return gguf.folder_of(file, print)


def read(folder: Path) -> tuple[list[int], torch.Tensor]:
    """Tokens of the text, and the logits after each."""
    ids: list[int] = AutoTokenizer.from_pretrained(folder)(TEXT).input_ids
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return ids, model(torch.tensor([ids])).logits[0]


def faults(output: Path, folder: Path, kind: str) -> list[str]:
    """What the folder that came back does otherwise than the output."""
    (own_ids, own), (ids, logits) = read(output), read(folder)
    if ids != own_ids:
        return [f"{kind}: other tokens"]
    far = 0.5 * float((own.softmax(1) - logits.softmax(1)).abs().sum(1).max())
    print(f"{kind}: largest difference of logits {float((own - logits).abs().max()):.4g}, total variation {far:.4g}")
    same = torch.equal(own, logits) if kind == "f32" else far <= NEAR
    return [] if same else [f"{kind}: other logits (total variation {far:.3g})"]


def spoilt(output: Path, folder: Path) -> Path:
    """A copy of which one weight is another."""
    shutil.copytree(output, folder, ignore=shutil.ignore_patterns("expunge"))
    tensors = load_file(folder / "model.safetensors")
    first = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    tensors[first] = tensors[first] * 1.01
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def main(output: Path, sources: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        os.environ[CACHE] = str(Path(work) / "cache")
        found = []
        for kind in ("f32", "f16"):
            found += faults(output, converted(output, sources, Path(work) / f"{kind}.gguf", kind), kind)
        other = converted(spoilt(output, Path(work) / "spoilt"), sources, Path(work) / "spoilt.gguf", "f32")
        if not faults(output, other, "f32"):
            found.append("a changed weight was not seen")
    if found:
        raise SystemExit("\n".join(found))
    print("the output is what llama.cpp makes of it")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
