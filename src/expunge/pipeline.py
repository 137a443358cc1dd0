"""What the commands do, each for its configuration: the only file that sees every stage."""

import datetime
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from expunge import registry
from expunge.comparison import cells
from expunge.comparison.result import Comparison
from expunge.config import commands, flags, housekeeping, options, recipes
from expunge.demo import demo
from expunge.errors import InputError
from expunge.evaluation import asking, official
from expunge.evaluation.models import KEPT, Models, audit
from expunge.intake import told
from expunge.intake.assembly import Assembled, assemble, token_counts
from expunge.intake.rendering import notes_on
from expunge.intake.sets import Checked, check
from expunge.loop import delivery, retraining, trial
from expunge.loop.training import Training
from expunge.loop.twins import Twin, make_twins
from expunge.model import gguf, load, save
from expunge.model.served import Served
from expunge.model.without_data import NotFollowed
from expunge.planning import plan as planned
from expunge.planning import route
from expunge.planning.plan import Planned
from expunge.planning.preview import rendered_example, subspace_plan
from expunge.planning.rows import Rows
from expunge.planning.table import lines as planned_lines
from expunge.records import (
    applied,
    attribution,
    dossier,
    factors,
    first,
    hashes,
    manifest,
    published,
    record,
    replacing,
    requests,
    reuse,
)
from expunge.records.attribution import Attribution
from expunge.records.dossier import Details
from expunge.records.lineage import trace
from expunge.records.run import Run
from expunge.reporting import comparison_pages
from expunge.reporting.record import Method, Saved, checks
from expunge.runs import distributed, tracking, unfinished
from expunge.runs.distributed import Runtime
from expunge.runs.environment import Clock
from expunge.runs.growing import Growing

Say = Callable[[str], None]
Hashes = Mapping[str, str]  # of code, models and rows, by role


def run_unlearn(config: commands.Unlearn, say: Say = lambda line: None) -> Run:
    """Removes the forget rows from a model and reports how far that worked.

    Returns the run once its output folder is complete. Raises `InputError` for wrong input (nothing is written) and
    `ExpungeError` where the run fails.
    """
    tracking.check(config.report_to)
    published.check(config)
    with requests.on_ledger(config, say) as request:
        run = request.finished(request.done or _run_unlearn(request.config, say))
    if config.push_to_hub:
        say(f"pushed: {distributed.from_main(partial(published.push, config.push_to_hub, run))}")
    return run


def _run_unlearn(config: commands.Unlearn, say: Say) -> Run:
    method = trial.method_of(config.method, config.options)
    output = replacing.place(config)
    checked = check(config, method.needs)
    config = gguf.opened(config, say)
    checked = checked.opened(config)
    config, training = route.settled(config, checked, say)
    config = config if training else replace(config, options=method)
    given = reuse.given(config, checked, say)
    config = reuse.with_its_subspace(config, given)
    if training is None and method.needs.earlier:
        checked = first.held_to(config, checked, say)
    hashed = distributed.from_main(partial(hashes.of_inputs, config, checked)) | reuse.hashed(given)
    identity = unfinished.identity("unlearn", config, hashed) | {"--train-config": repr(training)}
    with (
        unfinished.run(output, identity, config.restart, KEPT) as begun,
        begun.log(output, config.report_to, say) as log,
    ):
        done = _unlearn(config, checked, hashed, given or training, output, begun, log, say)
    return _finished(done, say)


def _unlearn(
    config: commands.Unlearn,
    checked: Checked,
    hashed: Hashes,
    given: reuse.Given | Training | None,
    output: Path,
    begun: unfinished.Run,
    log: Growing,
    say: Say,
) -> Run:
    """`given`: a curvature, or how to train anew in place of unlearning."""
    lineage = trace(config, checked, say)
    config = replace(config, date=config.date or begun.kept("date", datetime.date.today().isoformat()))
    models = Models(config, begun, hashed)
    with models.clock.stage("load"):
        assembled = assemble(config, checked)
        assembled.in_base = lineage.in_base
        delivery.check_dtype(config, assembled.problem.model)
    for line in told.lines(checked, assembled):
        say(line)
    with models.clock.stage("samples"):
        trial.add_samples(assembled)
    models.record_original(assembled)
    found = audit(models.evidence["original"], config, checked.comparison != "counterfactual", say)
    if config.retrained:
        models.record_other("retrained", load.twins(config.retrained)[0], assembled)
    with save.atomic_folder(output, replaces=config.overwrite) as folder:
        distributed.from_main((folder / "expunge").mkdir)
        done, method = _changed(config, checked, assembled, given, folder, log, say, models.clock, begun)
        log.deliver(folder)
        models.record_written(done.delivered.problem, assembled)
        details = Details(
            lineage=lineage,
            hashes=hashed,
            subspace=applied.subspace(done.subspace),
            method=method,
            save=Saved(**done.delivered.saved),
            history=checks(done.outcome.history),
            targets=done.outcome.targets,
            audit=found,
        )
        run = _write(folder, folder / "expunge", "unlearn", config, checked, assembled, models, details)
    return replace(run, output=output)


def _changed(
    config: commands.Unlearn,
    checked: Checked,
    assembled: Assembled,
    given: reuse.Given | Training | None,
    folder: Path,
    log: Growing,
    say: Say,
    clock: Clock,
    begun: unfinished.Run,
) -> tuple[trial.Trial, Method]:
    """The model written to `folder`, unlearned or trained anew, and how the record tells it."""
    if isinstance(given, Training):
        done = retraining.run(config, checked, assembled, given, folder, log, say, clock, begun.checkpoints)
        return done, applied.method(retraining.NAME, given, done)
    with clock.stage("load"):
        base = trial.base_of(config, assembled)
    assembled.problem.fitted = given.state if given else None
    trial.hold_to_first(assembled, checked)
    linear = reuse.linear(given, config.options.needs.linear)
    done = trial.run(config, assembled, base, folder, log.part(), say, clock, None, begun.checkpoints, linear)
    return done, applied.method(registry.title(config.method), config.options, done, given, checked.first)


def run_evaluate(config: commands.Evaluate, say: Say = lambda line: None) -> Run:
    """Judges an unlearned model. Raises `InputError`."""
    output = replacing.place(config)
    if config.served_model and not config.endpoint:
        raise InputError("--served-model names a model of a server: give that too (--endpoint URL).")
    if not config.endpoint or config.unlearned:
        load.check(_required(config.unlearned, "unlearned (or --endpoint)"), "unlearned", config)
    checked = check(config)
    config = gguf.opened(config, say)
    checked = checked.opened(config)
    server = asking.meet(config, checked, say) if config.endpoint else None
    hashed = distributed.from_main(partial(hashes.of_inputs, config, checked))
    identity = unfinished.identity("evaluate", config, hashed)
    with unfinished.run(output, identity, config.restart, KEPT) as begun:
        done = _evaluate(config, checked, hashed, server, output, begun, say)
    return _finished(done, say)


def _evaluate(
    config: commands.Evaluate,
    checked: Checked,
    hashed: Hashes,
    server: Served | None,
    output: Path,
    begun: unfinished.Run,
    say: Say,
) -> Run:
    lineage = trace(config, checked, say)
    config = replace(config, date=config.date or begun.kept("date", datetime.date.today().isoformat()))
    models = Models(config, begun, hashed, weights=server is None)
    with models.clock.stage("load"):
        assembled = assemble(config, checked)
    for note in (*assembled.notes, *told.untold(checked)):
        say(note)
    with models.clock.stage("samples"):
        trial.add_samples(assembled)
    if server and (samples := assembled.judged.pop("samples", None)):
        assembled.judged |= {"samples": one} if (one := asking.askable(server, samples)) else {}
    models.record_original(assembled)
    details = Details(lineage=lineage, hashes=hashed)
    if server:
        answered, limits = models.record_served(server, assembled, say)
        details = replace(details, answered=answered, limits=limits)
    else:
        models.record_other("unlearned", _required(config.unlearned, "unlearned"), assembled)
    if config.retrained:
        models.record_other("retrained", load.twins(config.retrained)[0], assembled)
    with save.atomic_folder(output, replaces=config.overwrite) as folder:
        run = _write(folder, folder, "evaluate", config, checked, assembled, models, details)
    return replace(run, output=output)


def run_plan(config: commands.Plan, say: Say = lambda line: None) -> Planned:
    """What a run would do and cost. Loads the tokenizer and the configuration of the model, no weights."""
    config = gguf.opened(config, say)
    rows, shape = Rows.before_loading(config, check(config, weights=False))
    lines = [f"model: {config.model} ({shape.model_type}), windows of at most {rows.rendering.context} tokens"]
    for name, counts in token_counts(rows.checked, rows.rendering, rows.tokenizer).items():
        lines.append(f"{name}: " + ", ".join(f"{value} {what}" for what, value in counts.items()))
    lines += [*notes_on(rows.checked, rows.rendering, rows.tokenizer), *told.of_rows(rows.checked)]
    trace(config, rows.checked, lines.append)
    config, _ = route.settled(config, rows.checked, lines.append)
    named = None if config.method == "all" else trial.method_of(config.method, config.options)
    if named is None or named.needs.earlier:
        rows = replace(rows, checked=first.held_to(config, rows.checked, lines.append))
    if named is not None:
        reuse.given(replace(config, options=named), rows.checked, lines.append)
    given = rows.checked.model.adapter
    device = Runtime(config.device).device
    linear = named is not None and named.needs.linear is not None
    lines.append(subspace_plan(shape, config.subspace, device, config.trust_remote_code, given, linear))
    example = rendered_example(rows.checked.forget[0], rows.rendering, rows.tokenizer, config.show_rows)
    try:
        made = planned.estimate(config, shape, rows)
        figures = planned_lines(made)
    except NotFollowed as error:  # what stands above is true without figures
        made, figures = None, [f"cost: {error}"]
    return Planned((*lines, "", *figures, "", *example), made)


def run_demo(config: housekeeping.Demo, say: Say = lambda line: None) -> Run:
    """A small model that memorised fictional people, some of whom are removed."""
    return demo.run(config, run_unlearn, lambda output, texts: Run(output, record.read(output), texts), say)


def run_retrain(config: commands.Retrain, say: Say = lambda line: None) -> list[Twin]:
    """Trains the retrained twins, or takes them from the cache. Raises `InputError`."""
    tracking.check(config.report_to)
    for role in ("base", "train", "train_config"):
        _required(getattr(config, role), role.replace("_", "-"))
    output = replacing.place(config)
    training = options.build(Training, recipes.read_yaml(str(config.train_config)), str(config.train_config))
    checked = check(config)
    config = gguf.opened(config, say)
    checked = checked.opened(config)
    hashed = distributed.from_main(partial(hashes.of_inputs, config, checked))
    identity = unfinished.identity("retrain", config, hashed) | {"--train-config": repr(training)}
    with unfinished.run(output, identity, config.restart) as begun, begun.log(output, config.report_to, say) as log:
        return make_twins(config, checked, training, output, say, begun.checkpoints, log)


def run_fit_curvature(config: commands.Curvature, say: Say = lambda line: None) -> Path:
    """Fits the curvature of what is to be kept; returns its folder. Raises `InputError`."""
    config = replace(config, options=trial.method_of(config.method, config.options))
    output = replacing.place(config)
    opened = gguf.opened(config, say)
    return factors.fit(opened, check(config, asked=("retain",)).opened(opened), output, say)


def run_influences(config: commands.Influence, say: Say = lambda line: None) -> Attribution:
    """For each forget row the training rows on which what the model knows of it depends most. Raises `InputError`."""
    output = replacing.place(config)
    needs = trial.method_of(flags.METHOD, None).needs
    checked = check(config, asked=("forget", "train"))
    config = gguf.opened(config, say)
    return attribution.find(config, checked.opened(config), needs, output, say)


def run_compare(config: commands.Compare, say: Say = lambda line: None) -> Comparison:
    """Compares methods over seeds; finished cells are kept. Raises `InputError`."""
    tracking.check(config.report_to)
    output = replacing.place(config)
    config = gguf.opened(config, say)
    identity = {"command": "compare"}  # cells know what made them
    with (
        unfinished.run(output, identity, config.restart, KEPT) as begun,
        begun.log(output, config.report_to, say) as log,
    ):
        content = cells.compare(config, say, begun.checkpoints, log)
        with save.atomic_folder(output, replaces=config.overwrite) as folder:
            comparison_pages.write(folder, content)
            log.deliver(folder)
    finished = Comparison(output, content)
    say(f"report: {finished.report}" + (f" ({finished.failed} cells failed)" if finished.failed else ""))
    return finished


def _required(value: str | None, name: str) -> str:
    if not value:
        raise InputError(f"--{name} is missing. Give it as a flag or in the recipe.")
    return value


def _write(
    output: Path,
    folder: Path,
    command: dossier.Command,
    config: commands.Unlearn | commands.Evaluate,
    checked: Checked,
    assembled: Assembled,
    models: Models,
    details: Details,
) -> Run:
    """Record, pages and numbers in `folder`, and the model card of an unlearned `output`: by the main process."""
    seconds = models.clock.seconds
    details = replace(details, mmlu=models.mmlu, interruptions=models.run.interruptions, attacked=models.attacked)

    def write() -> Run:
        content = dossier.build(command, config, checked, assembled, models.evidence, seconds, details, output)
        texts = dossier.texts(checked, models.evidence) if config.show_rows else {}
        around = official.circumstances(checked, assembled.problem.rendering)
        dossier.write(folder, content, models.evidence, texts or None, around)
        if folder != output:
            (output / "README.md").write_text(dossier.model_card(content), encoding="utf-8")
        return Run(output, manifest.seal(output, folder / "record.json", content), texts)

    return distributed.from_main(write)


def _finished(run: Run, say: Say) -> Run:
    say(f"verdict: {run.sentence}")
    for reason in run.verdict.reasons:
        say(f"  {reason}")
    say(f"report: {run.report}")
    return run
