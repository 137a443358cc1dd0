"""One small world of fictional people with its models, made once for all end-to-end tests."""

import os
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from e2e import little
from e2e.worlds import WORLD
from expunge.demo.models import make_models


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with base, original and retrained model, and forget, retain, holdout and train rows.

    Not to be written to: where several processes run the tests, the first makes it and all use it.
    """
    torch.set_num_threads(1)
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "world"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            part = tmp_path_factory.mktemp("world")
            make_models(part, WORLD, print)
            part.rename(folder)
    return folder


@pytest.fixture(scope="session")
def little_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a model so small that a run takes a second: for what does not hang on how well it forgets."""
    torch.set_num_threads(1)
    return little.write_world(tmp_path_factory.mktemp("little"))


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's own configuration or cache."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
