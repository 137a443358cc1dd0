"""The recipes that travel with the package, found by name: `--recipe lume_olmo_7b`, `expunge list recipes`.

They lie in recipes/ of a checkout and below share/expunge/recipes of an environment that the wheel was installed into.
"""

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from expunge import registry
from expunge.errors import InputError

CATALOGUE = "recipes"
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe's file, and the folder that its relative paths start from."""

    file: Path
    folder: Path

    def beside(self, value: str) -> Path:
        """A path of the recipe, without `..` where the folder does not exist, as that of a shipped recipe may not."""
        path = self.folder / value
        return path if self.folder.is_dir() else Path(os.path.normpath(path))


def find(given: str | Path) -> Recipe:
    """A recipe by path, or a shipped one by its bare name. Raises `InputError` for an unknown name, with a near miss.

    Relative paths start from the recipe's own folder. Those of a recipe taken by name start from `recipes` below the
    working folder, as they do for somebody at the top of a checkout: the environment is no place for models.
    """
    file, text = Path(given), str(given)
    if file.exists() or os.sep in text or text.endswith(SUFFIXES):
        return Recipe(file, file.absolute().parent)
    shipped = _shipped()
    if text not in shipped:
        raise InputError(
            f"{text}: there is neither such a file nor a shipped recipe of that name"
            f"{registry.suggestion(text, list(shipped))}"
        )
    return Recipe(shipped[text], Path.cwd() / CATALOGUE)


def summaries() -> dict[str, str]:
    """The shipped recipes by name, with the first sentence of the comment that each begins with."""
    return {name: _first_sentence(file) for name, file in _shipped().items()}


def _shipped() -> dict[str, Path]:
    files = [file for file in _candidates() if file.suffix in SUFFIXES and file.is_file()]
    return {file.stem: file for file in sorted(files)}


def _candidates() -> list[Path]:
    """Files of the checkout that this module lies in, else of the installed distribution."""
    top = Path(__file__).parents[3]
    if (top / "pyproject.toml").is_file() and (top / CATALOGUE).is_dir():
        return list((top / CATALOGUE).iterdir())
    try:
        installed = distribution("expunge").files or ()
    except PackageNotFoundError:
        return []
    return [Path(str(file.locate())) for file in installed if file.parts[-3:-1] == ("expunge", CATALOGUE)]


def _first_sentence(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    end = next((place for place, line in enumerate(lines) if not line.startswith("#")), len(lines))
    comment = " ".join(line.lstrip("# ") for line in lines[:end])
    return comment.split(". ", 1)[0].rstrip(".") + "." if comment else ""
