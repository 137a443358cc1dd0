"""Tests that hang on what model libraries do, and are skipped by name beside older ones (`make test-oldest`)."""

import pytest
import transformers
from packaging.version import Version

from expunge.model.gguf import READS

OLDER = Version(transformers.__version__) < READS
reading = pytest.mark.skipif(OLDER, reason="GGUF files are refused beside this transformers")
tried = pytest.mark.skipif(OLDER, reason="this transformers or peft names tensors otherwise (docs/decisions.md)")
