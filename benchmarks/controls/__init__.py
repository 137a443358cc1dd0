"""Controls of experiments: entries of the catalogues, given by path, that change one thing about a method of ours.

    expunge unlearn --method ./benchmarks/controls/sophia_shuffled.py ...

Whether a curvature earns its place is asked by putting something without its structure in that place, and nothing else.
No recipe may name code that is run, so the programs beside this folder name these files.
"""

from pathlib import Path


def path(name: str) -> str:
    """The file of a control, as `method` and `curvature` take it."""
    return str(Path(__file__).with_name(f"{name}.py"))
