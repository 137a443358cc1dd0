"""The figures of a plan, made in a process of its own, whose time and peak memory are looked at too."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from expunge import pipeline
from expunge.config import commands, options


def write(given: dict[str, Any], file: Path) -> None:
    """Seconds of the processor, peak of the resident set, costs of methods and of retraining, and what fits."""
    begin = time.process_time()
    estimate = pipeline.run_plan(options.build(commands.Plan, given, "plan")).estimate
    seconds = time.process_time() - begin
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
    assert estimate.retraining is not None
    costs = [
        {key: getattr(cost, key) for key in ("name", "subspace", "steps", "step_flops", "seconds")}
        | {"peak": cost.memory.peak}
        for cost in (*estimate.methods, estimate.retraining)
    ]
    room = {name: [asdict(one) for one in tried] for name, tried in estimate.room.items()}
    content = {"seconds": seconds, "peak": peak, "costs": costs, "room": room}
    file.write_text(json.dumps(content), encoding="utf-8")
