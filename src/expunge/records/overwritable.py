"""What an output holds that may be written over: nothing but what expunge wrote. No torch: pages are made anew by this.

An output that exists is replaced only where that was asked for (--overwrite), where all that lies in it was written by
expunge, and where nothing that is read lies in it.
"""

from collections.abc import Mapping
from pathlib import Path

from expunge.errors import InputError
from expunge.records import record
from expunge.runs import growing, outputs

MODEL = ("config.json", "adapter_config.json")  # one of which a folder with a model has
LOG = f"expunge/{growing.NAME}"
ALONE = (  # all that other commands write, the first of which tells them
    ("curvature.json", "factors.safetensors"),
    ("influence.jsonl",),
    ("comparison.json", *(f"comparison.{end}" for end in ("html", "md", "csv", "tex", "svg")), "cells.csv", LOG),
    ("report.html", "report.md"),
    ("document.html", "document.pdf"),
)
TWIN = "expunge/retrain.json"


def checked(output: str | Path, overwrite: bool, inputs: Mapping[str, str]) -> Path:
    """The output, where it can be written or replaced. `inputs`: paths by what they are. Raises `InputError`."""
    path = outputs.check_output(output, overwrite)
    if overwrite and path.exists():
        if stranger := _stranger(path):
            raise InputError(
                f"{path}: --overwrite replaces outputs of expunge alone, and {stranger}. Name another --output."
            )
        own = path.resolve()
        for what, given in inputs.items():
            real = Path(given).resolve()
            if real == own or own in real.parents or inside_model(own, real):
                raise InputError(f"{path}: --overwrite would remove {what} ({given}). Name another --output.")
    return path


def inside_model(output: Path, folder: Path) -> bool:
    """Whether an output lies, at whatever depth, in a folder that holds a model; both resolved."""
    return folder in output.parents and any((folder / name).is_file() for name in MODEL)


def _stranger(folder: Path) -> str:
    """What of a folder is not known to be expunge's; empty: nothing."""
    found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_symlink() or not file.is_dir()}
    if (file := record.find(folder)).is_file():
        own = str(file.relative_to(folder))
        known = {own, str(Path(own).with_name(record.SEALED)), *record.read(file).files}
    elif twins := {str(file.parent.parent.relative_to(folder)) for file in folder.rglob(TWIN)}:
        known = {LOG} | {name for name in found for twin in twins if twin == "." or name.startswith(f"{twin}/")}
    else:
        known = next(({*names} for names in ALONE if names[0] in found), set())
        if not known:
            return "there is no record in it"
    return f"{min(found - known)} is no part of it" if found - known else ""
