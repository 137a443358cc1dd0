"""Every family of causal language models that transformers ships, through load, plan, unlearn, save and reload.

    OMP_NUM_THREADS=1 python benchmarks/families.py [FAMILY ...] [--again] [--page docs/families.md]

Each family in its smallest random form (`family_models`), as a folder with the byte tokenizer and invented rows. Four
runs of the public `unlearn`: gradient ascent of one epoch on full weights, on a LoRA that is merged, on a LoRA that is
kept as an adapter, and `margin_newton` with one iteration on all linear layers (K-FAC). What the run wrote is then read
by transformers (and peft) alone and compared with what went in:

- *moved*: every parameter that should move, by type and by effect (its gradient of the forget loss, taken here by
  ordinary autograd, is not zero), moved; no other parameter and no buffer did;
- *files*: the same tensors under the same names, with the same shapes and dtypes;
- *losses*: the record's losses of the forget rows, before and after, are those that transformers gives, one row at a
  time and without padding.

One JSON a family in build/families, so that an interrupted sweep goes on; `--again` makes the named ones (or all) anew.
Expected on one core: about 15 minutes for all.
"""

import argparse
import contextlib
import io
import json
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from safetensors.torch import load_file

import family_models
import family_page

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "families"
LONGEST = 180  # seconds of one run: a family that takes longer is not small
STILL = 1e-7  # largest gradient of a parameter that need not move
NEAR = 2e-3  # relative, of losses: what rounding in other batches does, and a shifted mask does not
RUNS: dict[str, dict[str, Any]] = {
    "full": {"method": "gradient_ascent", "subspace": "full"},
    "lora": {"method": "gradient_ascent", "subspace": "lora"},
    "adapter": {"method": "gradient_ascent", "subspace": "lora", "save_as": "adapter"},
    "kfac": {"method": "margin_newton", "subspace": "full"},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "gradient_ascent": {"epochs": 1, "learning_rate": 1e-3},
    "margin_newton": {"iterations": 1, "layers": "all"},
}
GOOD = family_page.GOOD


@dataclass
class Found:
    """What was seen of a family: "yes", or why not, by step; `served`: what the written files show; `code`:
    a hash of the code that it was tried with."""

    family: str
    parameters: int = 0
    seconds: float = 0.0
    skipped: str = ""
    steps: dict[str, str] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)
    code: str = ""


class TooLong(Exception):
    """A run that did not end in time."""


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raises `TooLong` inside where the time is up."""

    def stop(*_: Any) -> None:
        raise TooLong(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(step: Callable[[], str]) -> str:
    """What a step says; of what it raises, "refused: ..." for the tool's own answers, "fault: ..." for all else."""
    from expunge.errors import ExpungeError, InputError

    try:
        with at_most(LONGEST), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return step()
    except InputError as error:
        return f"refused: {error}"
    except ExpungeError as error:
        return f"failed: {error}"
    except Exception as error:  # whatever a family makes of it
        first = (str(error).strip().splitlines() or [""])[0][:160]
        return f"fault: {type(error).__name__}: {first}"


# What was written


def plain_model(folder: Path, base: Path) -> Any:
    """As transformers loads it, or peft where the folder holds an adapter, which is merged."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if not (folder / "adapter_config.json").exists():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return PeftModel.from_pretrained(plain_model(base, base), str(folder)).merge_and_unload().eval()


# What should move, and what did


@dataclass(frozen=True)
class Moves:
    """Names of parameters: `may` move; `must`: of those, whose gradient is not zero."""

    may: set[str]
    must: set[str]


def expected(model: Any, rows: Sequence[tuple[list[int], int]], linear: bool) -> Moves:
    """All parameters, or the weights of linear layers but the output head and what is tied to it."""
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    may = set(names.values())
    if linear:
        head = model.get_output_embeddings()
        weights = [one.weight for one in model.modules() if family_models.is_linear(one) and one is not head]
        may = {names[id(weight)] for weight in weights if head is None or weight is not head.weight}
    torch.stack(family_models.row_losses(model, rows)).mean().backward()
    gradients = {name: tensor.grad for name, tensor in model.named_parameters()}
    must = {name for name in may if (slope := gradients[name]) is not None and float(slope.abs().max()) > STILL}
    model.zero_grad(set_to_none=True)
    return Moves(may, must)


@torch.no_grad()
def called(model: Any, ids: list[int]) -> dict[str, list[bool]]:
    """For the weights of modules that a pass calls, whether each call is on every token (once so: two factors)."""
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    calls: dict[str, list[bool]] = {}

    def look(module: Any, arguments: tuple[Any, ...]) -> None:
        if not arguments or not isinstance(arguments[0], torch.Tensor):  # embeddings of positions, asked for by length
            return
        places = arguments[0].numel() // arguments[0].shape[-1]
        calls.setdefault(names[id(module.weight)], []).append(places == len(ids))

    owners = [one for one in model.modules() if id(one._parameters.get("weight")) in names]
    handles = [one.register_forward_pre_hook(look) for one in owners]
    model(input_ids=torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return calls


def astray(before: Any, after: Any, moves: Moves) -> list[str]:
    """What moved and should not have, and what should have and did not; in words."""
    old, new = before.state_dict(), after.state_dict()
    kept = dict(before.named_parameters())
    moved = {name for name in old if name not in new or not torch.equal(old[name], new[name])}
    moved_parameters = moved & kept.keys()
    twins = {name for name in moved - kept.keys() if any(old[name].data_ptr() == kept[one].data_ptr() for one in kept)}
    found = [f"{name} moved and should not have" for name in sorted(moved - twins - moves.may)]
    return found + [f"{name} did not move" for name in sorted(moves.must - moved_parameters)]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: one for file in sorted(folder.glob("*.safetensors")) for name, one in load_file(file).items()}


def unlike(given: dict[str, torch.Tensor], made: dict[str, torch.Tensor]) -> list[str]:
    """In what two sets of tensors differ but for their values; and what is not finite."""
    found = [f"the file lacks {name}" for name in sorted(given.keys() - made.keys())]
    found += [f"the file has {name}, which the input had not" for name in sorted(made.keys() - given.keys())]
    for name in sorted(given.keys() & made.keys()):
        old, new = given[name], made[name]
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            found.append(f"{name} is {new.dtype} {tuple(new.shape)}, was {old.dtype} {tuple(old.shape)}")
        if not bool(torch.isfinite(new.float()).all()):
            found.append(f"{name} is not finite")
    return found


def disagreeing(said: Sequence[float | None], losses: Sequence[torch.Tensor], name: str) -> list[str]:
    """Where the record's losses are not these."""
    pairs = [(one, float(other)) for one, other in zip(said, losses, strict=True)]
    far = [pair for pair in pairs if pair[0] is None or not abs(pair[0] - pair[1]) <= NEAR * max(1.0, abs(pair[1]))]
    return (
        [f"the record's loss under the {name} model is {far[0][0]}, transformers gives {far[0][1]:.4f}"] if far else []
    )


# One family


def served(name: str, folder: Path, output: Path, rows: Sequence[tuple[list[int], int]]) -> list[str]:
    """What is wrong with an output of a run, as transformers and peft read it."""
    record = json.loads((output / "expunge" / "record.json").read_text(encoding="utf-8"))
    before, after = plain_model(folder, folder), plain_model(output, folder)
    if not record["rendering"]["end_answers"]:  # where the model never learnt what ends an answer, that does not count
        rows = [(ids[:-1], first) for ids, first in rows]
    moves = expected(before, rows, linear=name != "full")
    if name != "full":
        seen = called(before, rows[0][0])
        moves = Moves(moves.may, moves.must & {one for one in seen if name != "kfac" or seen[one] == [True]})
    if (settings := output / "adapter_config.json").exists():
        held = json.loads(settings.read_text(encoding="utf-8"))["target_modules"]
        moves = Moves(moves.may, moves.must & {f"{module}.weight" for module in held})
    found = astray(before, after, moves)
    if not settings.exists():
        found += unlike(tensors(folder), tensors(output))
    with torch.no_grad():
        for role, model in (("original", before), ("unlearned", after)):
            said = [row["loss"].get(role) for row in record["rows"]]
            found += disagreeing(said, family_models.row_losses(model, rows), role)
    return found


def run(name: str, folder: Path, files: dict[str, str], found: Found) -> str:
    """One of `RUNS`; what its files show goes to `found.served`."""
    import expunge

    settings, output = RUNS[name], folder.parent / f"out-{name}"
    options = OPTIONS[settings["method"]]
    common = {
        "model": str(folder),
        "force": True,
        "join": "space",
        "device": "cpu",
        "output": str(output),
        "restart": True,
    }
    with contextlib.ExitStack() as less:
        less.enter_context(patch("expunge.records.dossier.write_pages"))  # made from a record, without a model
        for what, count in (("SAMPLES", 4), ("SAMPLE_TOKENS", 8)):
            less.enter_context(patch(f"expunge.loop.trial.{what}", count))
        expunge.unlearn(**common, **files, **settings, options=options)
    wrong = served(name, folder, output, family_models.encoded(files["forget"]))
    found.served += [f"{name}: {one}" for one in wrong]
    return GOOD if not wrong else f"fault: {wrong[0]}" + (f" (and {len(wrong) - 1} more)" if wrong[1:] else "")


def load(folder: Path) -> str:
    from expunge.model.load import check, load_model

    check(str(folder), "model")
    load_model(str(folder), torch.float32, torch.device("cpu"))
    return GOOD


def plan(folder: Path, files: dict[str, str]) -> str:
    import expunge

    with patch("expunge.planning.speed.MOST_FLOPS", 2e8), patch("expunge.planning.speed.REPEATS", 1):
        lines = expunge.plan(model=str(folder), join="space", device="cpu", method="margin_newton", **files).lines
    return "yes, without figures" if any(line.startswith("cost:") for line in lines) else GOOD


def examine(family: str, work: Path, runs: Sequence[str] = tuple(RUNS), plans: bool = True) -> Found:
    """All steps of a family in a folder of its own, which is removed afterwards."""
    found, begin = Found(family), time.perf_counter()
    if family in family_models.UNMADE:
        found.skipped = family_models.UNMADE[family]
        return found
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    files, folder = family_models.write_rows(work), work / "model"
    try:
        made = outcome(lambda: str(family_models.write_model(family, folder, files)))
        if not made.isdigit():
            found.skipped = f"its smallest form cannot be made ({made})"
            return found
        found.parameters = int(made)
        found.steps["loads"] = outcome(lambda: load(folder))
        if plans:
            found.steps["plans"] = outcome(lambda: plan(folder, files))
        for name in runs if found.steps["loads"] == GOOD else ():
            found.steps[name] = outcome(lambda name=name: run(name, folder, files, found))  # type: ignore[misc]
    finally:
        shutil.rmtree(work, ignore_errors=True)
    found.seconds = round(time.perf_counter() - begin, 1)
    return found


def code() -> str:
    """Of the package and of this program."""
    from expunge.files import hashing

    return hashing.file_hash([*sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "benchmarks").glob("famil*.py"))])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("families", nargs="*", default=family_models.FAMILIES)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    for family in arguments.families:
        file = WORK / f"{family}.json"
        if arguments.again or not file.exists():
            found = replace(examine(family, WORK / family), code=code())
            file.write_text(json.dumps(asdict(found), indent=1), encoding="utf-8")
            print(family, found.skipped or found.steps, f"{found.seconds} s", flush=True)
    if arguments.page:
        known = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in WORK.glob("*.json")}
        family_page.write(arguments.page, family_models.FAMILIES, known, transformers.__version__, code())


if __name__ == "__main__":
    main()
