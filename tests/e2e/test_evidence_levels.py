"""The levels from the front door: what is attacked, what the record and the pages say of it; resuming."""

import json
from importlib import resources
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import expunge
from e2e import little
from expunge.evaluation import attacked, models


def test_full_is_recorded_for_every_model_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expunge.attacks.sampling.SAMPLES", 2)
    monkeypatch.setattr("expunge.attacks.sampling.TRIES", 1)
    inputs = little.write_all(tmp_path) | {"retrained": str(tmp_path / "model")}
    asked: list[str] = []
    run, models_ = attacked.run_some, iter(("original", "retrained", "unlearned", "unlearned again"))

    def counted(chosen, problem, judged, original, alone):  # type: ignore[no-untyped-def]
        assert not alone
        asked.append(next(models_))
        if asked[-1] == "unlearned":
            raise KeyboardInterrupt
        return run(chosen, problem, judged, original, alone)

    monkeypatch.setattr(models.attacked, "run_some", counted)
    with pytest.raises(KeyboardInterrupt):
        little.unlearn(tmp_path / "out", evidence="full", **inputs)
    found = little.unlearn(tmp_path / "out", evidence="full", **inputs).record
    # Neither the original nor the twin is attacked again.
    assert asked == ["original", "retrained", "unlearned", "unlearned again"]

    schema = json.loads((resources.files("expunge.records") / "record.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(json.loads((tmp_path / "out/expunge/record.json").read_text("utf-8")))
    results = {result.attack: result for result in found.attacks.results}
    assert set(results) == {name for name, one in attacked.attacks("audit").items() if one.level == "full"}
    assert set(found.attacks.not_tested) == set(attacked.attacks("audit")) - set(results)
    forget = results["rounding"].settings[1].values["forget"]
    assert set(forget) == {"original", "unlearned", "retrained"}
    assert set(found.attacks.rows) == {"forget"}, "beside a retrained model never-seen rows are not looked at"
    assert "not tested: " in found.verdict.sentence and "not tried: " in found.limits[0]
    page = (tmp_path / "out/expunge/report.md").read_text("utf-8")
    assert "## Under attack" in page and "| rounding: 4 bits |" in page and "Not tested: " in page

    # Another command on the same models and rows attacks only what it was not shown of.
    models_, asked = iter(("evaluated",)), []
    given = {name: path for name, path in inputs.items() if name != "model"} | {"unlearned": str(tmp_path / "out")}
    again = expunge.evaluate(inputs["model"], output=str(tmp_path / "judged"), evidence="full", **given).record
    assert asked == ["evaluated"]
    for one, other in zip(again.attacks.results, found.attacks.results, strict=True):
        assert (one.attack, one.verdict, one.settings) == (other.attack, other.verdict, other.settings)
