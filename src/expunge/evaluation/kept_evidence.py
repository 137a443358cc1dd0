"""Evidence of models that lie on disk, kept from run to run, set by set and attack by attack: another request on the
same model, or another method, does not measure it again.

A file is named by a hash of all that determines what is in it: the model, the set's rows as windows (keyed), how they
are generated from, the original that a KL is from, code, libraries, device. It holds numbers alone, as `evidence/*.npz`
of an output does: in place of what a model generated, which a run forgets when it ends, what was read off it, and a
keyed hash, so that equal texts can be told. The folder is its owner's; a file lives for `DAYS` days after its last use,
there are `MOST` at most, and `expunge purge` removes them all.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from expunge.attack import Point, Reading
from expunge.benchmark import Generating
from expunge.errors import InputError
from expunge.files import code, hashing
from expunge.problem import Split
from expunge.runs import distributed, environment, workspace
from expunge.runs.checkpoint import Checkpoints
from expunge.scoring.evidence import Candidates, OtherAnswers, SetEvidence, Tokens
from expunge.scoring.matching import exact_rows, known_rows, recall_rows
from expunge.scoring.seen import Seen

FOLDER = "evidence"
DAYS, MOST = 30, 256
DAY = 86400.0
KINDS: tuple[type[Any], ...] = (SetEvidence, Candidates, OtherAnswers, Tokens, Reading, Point, Seen)


@dataclass(frozen=True, slots=True)
class Shelf:
    """The folder, the key of the hashes in it, and what all its files are to hang on."""

    files: Checkpoints
    secret: bytes
    made_by: list[Any]

    @classmethod
    def opened(cls, benchmark: str, generating: Generating, circumstances: Sequence[str]) -> "Shelf":
        """Without what is too old or too much. `circumstances`: the model and the original by hash, dtype, device."""
        folder = workspace.private(workspace.cache_folder() / FOLDER)
        distributed.from_main(lambda: _tidy(Checkpoints(folder)))
        asked = {name: value for name, value in asdict(generating).items() if not callable(value)}
        files = hashing.file_hash(code.made_by("evaluation.evidence", f"benchmarks.{benchmark}"))
        made_by = [benchmark, asked, *circumstances, files, environment.versions()]
        return cls(Checkpoints(folder, KINDS), hashing.key(), made_by)

    def name(self, split: Split, silent: bool) -> str:
        """Of the file of a set, which is generated from unless it is `silent`."""
        return _hashed([self.made_by, split.name, silent, self._hash_of(split)])

    def names_of_attacks(self, given: Mapping[str, Iterable[str]], judged: Mapping[str, Split]) -> dict[str, str]:
        """By attack, of the file of its readings, which hang on all sets that it is given: on examples among the rows
        to keep too."""
        code_of = hashing.file_hash(code.made_by("evaluation.attacked", "attacks"))
        rows = {name: self._hash_of(split) for name, split in judged.items()}
        return {
            attack: _hashed([self.made_by, attack, code_of, [[name, rows[name]] for name in sorted(sets)]])
            for attack, sets in given.items()
        }

    def _hash_of(self, split: Split) -> str:
        rows: list[Any] = [[window.row, window.ids, window.counted] for window in split.windows]
        rows += [[row.kind, *row.content, row.task, *row.reworded] for row in split.rows]
        return hashing.keyed_hash([json.dumps(rows)], self.secret)

    def load(self, name: str) -> SetEvidence | None:
        """None where nothing was kept; a file that is not whole is as good as none."""
        found: SetEvidence | None = self._read(name)
        return found

    def readings(self, name: str) -> list[Reading] | None:
        """The same of an attack's."""
        found: dict[str, list[Reading]] | None = self._read(name)
        return found["readings"] if found else None

    def _read(self, name: str) -> Any:
        file = self.files.folder / f"{name}.safetensors"
        if not distributed.from_main(file.is_file):
            return None
        try:
            found = self.files.read(name)
        except InputError:
            return None
        distributed.from_main(lambda: os.utime(file))
        return found

    def save(self, name: str, recorded: SetEvidence) -> SetEvidence:
        """Keeps the numbers of a set; returns what a later run will find."""
        numbers = as_numbers(recorded, self.secret)
        self.files.save(name, numbers)
        return numbers

    def save_readings(self, name: str, readings: Sequence[Reading]) -> None:
        """Keeps what an attack showed: numbers alone."""
        self.files.save(name, {"readings": list(readings)})


def as_numbers(recorded: SetEvidence, secret: bytes) -> SetEvidence:
    """The same evidence without text: scores of what was generated, and keyed hashes that tell equal texts apart."""
    read = {"known": known_rows(recorded), "recall": recall_rows(recorded), "exact": exact_rows(recorded)}
    hashed = [None if text is None else hashing.keyed_hash([text], secret) for text in recorded.generations]
    return replace(recorded, references=(None,) * len(hashed), generations=tuple(hashed), read=read)


def _hashed(identity: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _tidy(files: Checkpoints) -> None:
    newest = sorted(files.folder.glob("*.safetensors"), key=lambda file: -file.stat().st_mtime)
    for place, file in enumerate(newest):
        if place >= MOST or time.time() - file.stat().st_mtime > DAYS * DAY:
            file.unlink(missing_ok=True)
