"""One small world of fictional people with its models, made once for all end-to-end tests."""

from pathlib import Path

import pytest
import torch

from expunge.demo import SMALL, make_models


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with base, original and retrained model, and forget, retain, holdout and train rows."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("world")
    make_models(folder, SMALL, print)
    return folder


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's own configuration or cache."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
