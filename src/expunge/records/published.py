"""`--push-to-hub`: the unlearned model goes to the Hugging Face hub, in one commit of a private repository.

Weights, tokenizer, configuration and the model card, which names no row. What lies in `expunge/` (record, report,
numbers) stays here: it is evidence for who asked, not for who downloads the model.
"""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from expunge.config.commands import Unlearn
from expunge.errors import ExpungeError, InputError, first_line
from expunge.records.run import Run
from expunge.reporting import card

CARD = "README.md"


def check(config: Unlearn) -> None:
    """Raises `InputError` for what cannot be pushed, before anything is read."""
    if not (name := config.push_to_hub):
        return
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"--push-to-hub {name}: {first_line(error)}") from None
    if "/" not in name:
        raise InputError(f"--push-to-hub {name}: name it OWNER/NAME.")
    if config.show_rows:
        raise InputError("--push-to-hub: with --show-rows what is written holds text of rows. Leave one of them out.")
    if not get_token():
        raise InputError("--push-to-hub: there is no token of the hub. Log in with `hf auth login`, or set HF_TOKEN.")


def push(name: str, run: Run) -> str:
    """Makes the repository where there is none (private), and commits the model to it; returns its address.

    Raises `ExpungeError` where the hub does not take it; the output lies complete where it was written.
    """
    files = sorted(path for path in run.output.rglob("*") if path.is_file())
    own = [(str(path.relative_to(run.output)), path) for path in files if path != run.output / CARD]
    operations = [CommitOperationAdd(place, str(path)) for place, path in own if Path(place).parts[0] != "expunge"]
    operations.append(CommitOperationAdd(CARD, card.render(run.record, elsewhere=True).encode()))
    api = HfApi()
    try:
        address = api.create_repo(name, private=True, exist_ok=True)
        api.create_commit(name, operations, commit_message="An unlearned model, by expunge")
    except Exception as error:  # whatever the hub, the network or the library says
        raise ExpungeError(
            f"{name}: the hub did not take the model ({first_line(error)}). It lies complete in {run.output}; push it "
            f'with: hf upload {name} {run.output} . --private --exclude "expunge/*"'
        ) from None
    return str(address)
