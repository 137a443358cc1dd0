"""expunge: removes the influence of chosen training rows from a causal language model, and shows how far that worked.

    run = expunge.unlearn(model="...", forget="forget.jsonl", retain="retain.jsonl", output="out")

Importing the package imports nothing heavy; the functions are loaded when they are first used.
"""

from typing import Any

PUBLIC = ("plan", "unlearn", "retrain", "fit_curvature", "evaluate", "compare", "report")
__all__ = ["compare", "evaluate", "fit_curvature", "plan", "report", "retrain", "unlearn"]


def __getattr__(name: str) -> Any:
    if name == "report":
        from expunge.records import pages

        return pages.report
    if name in PUBLIC:
        from expunge import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'expunge' has no attribute {name!r}")
