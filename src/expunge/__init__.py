"""expunge: removes the influence of chosen training rows from a causal language model, and shows how far that worked.

    run = expunge.unlearn("MODEL", "forget.jsonl", retain="retain.jsonl", output="out")

Importing the package imports nothing heavy; the functions are loaded when they are first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from expunge.api import compare, evaluate, fit_curvature, influences, plan, retrain, unlearn
    from expunge.config.lora import Lora
    from expunge.records.pages import report

__all__ = ["Lora", "compare", "evaluate", "fit_curvature", "influences", "plan", "report", "retrain", "unlearn"]


def __getattr__(name: str) -> object:
    if name == "report":
        from expunge.records import pages

        return pages.report  # without torch
    if name == "Lora":
        from expunge.config.lora import Lora

        return Lora
    if name in __all__:
        from expunge import api

        return getattr(api, name)
    raise AttributeError(f"module 'expunge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
