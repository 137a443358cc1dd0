"""Catalogues: the file name is the registration, and listing imports nothing heavy."""

import subprocess
import sys
from pathlib import Path

import pytest

import expunge
from expunge import registry
from expunge.errors import InputError

SOURCE = Path(expunge.__file__).parent
ENTRIES = [(catalogue, name) for catalogue in registry.CATALOGUES for name in registry.names(catalogue)]
LIST = "[registry.summary(c, n) for c in registry.CATALOGUES for n in registry.names(c)]"
HEAVY = ("torch", "transformers", "peft", "numpy", "scipy")


@pytest.mark.parametrize("catalogue", registry.CATALOGUES)
def test_entries_are_the_files(catalogue: str) -> None:
    files = {file.stem for file in (SOURCE / catalogue).iterdir() if file.suffix == ".py"}
    assert set(registry.names(catalogue)) == files - {"__init__"}
    assert list(registry.names(catalogue)) == sorted(registry.names(catalogue))


def test_known_entries_are_listed() -> None:
    assert {"loss_matching", "gradient_ascent"} <= set(registry.names("methods"))
    assert {"knowledge", "loss_attack", "regurgitation"} <= set(registry.names("metrics"))


@pytest.mark.parametrize(("catalogue", "name"), ENTRIES)
def test_summaries_are_one_sentence(catalogue: str, name: str) -> None:
    summary = registry.summary(catalogue, name)
    assert len(summary) > 20 and "\n" not in summary


def test_an_entry_is_its_class() -> None:
    assert registry.load("metrics", "loss_attack").__name__ == "LossAttack"


@pytest.mark.parametrize(
    ("catalogue", "name", "words"),
    [
        ("methods", "loss_match", ("there is no method 'loss_match'", "did you mean 'loss_matching'?", "Known: ")),
        ("metrics", "zzzzzzz", ("there is no metric 'zzzzzzz'.", "knowledge")),
        ("methods", "", ("there is no method ''",)),
        ("methods", "../demo", ("there is no method",)),
        ("methods", "__init__", ("there is no method",)),
        ("method", "npo", ("there is no catalogue 'method'", "did you mean 'methods'?")),
    ],
)
def test_near_misses_are_suggested(catalogue: str, name: str, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        registry.load(catalogue, name)
    assert all(word in str(caught.value) for word in words)


def check_light(code: str) -> None:
    """Runs the code in a fresh interpreter and looks for heavy packages there."""
    program = f"import sys; from expunge import registry; {code}; print([n for n in {HEAVY} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_listing_imports_nothing_heavy() -> None:
    check_light(LIST)


def test_light_check_rejects_loading() -> None:
    with pytest.raises(AssertionError):
        check_light("registry.load('metrics', 'loss')")
