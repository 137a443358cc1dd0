#!/usr/bin/env bash
# What needs a GPU, in one go of about ten minutes: tests/gpu, what a curvature and margin_newton cost, and margin_newton
# and other second-order methods on LUME rows with a model of 102 million parameters. From the repository's root:
#     bash benchmarks/on_gpu.sh FOLDER_OF_LUME_FOLDS FOLDER_FOR_RESULTS
# PYTHON names the interpreter. Nothing is installed; rows and models stay below build/. TOFU: benchmarks/tofu_on_gpu.sh.
set -uo pipefail
lume=${1:?the folder of the four public LUME folds}
out=${2:?a folder for the results}
python=${PYTHON:-python3}
export PYTHONPATH="src:benchmarks:tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$out"
failed=0
"$python" -m pytest tests/gpu 2>&1 | tee "$out/tests.log" || failed=1
"$python" benchmarks/curvature_cost.py --output "$out" 2>&1 | tee "$out/cost.log" || failed=1
"$python" benchmarks/newton_cost.py --device cuda --output "$out" 2>&1 | tee "$out/newton_cost.log" || failed=1
"$python" benchmarks/margin_newton.py --lume "$lume" --size large --parts requests --requests three tenth --seeds 0 \
    --output "$out/margin_newton" 2>&1 | tee "$out/margin_newton.log" || failed=1
"$python" benchmarks/second_order.py --lume "$lume" --size large --most-minutes "${MOST_MINUTES:-3}" \
    --parts uses ablation tuning tuned --page "$out/lume_second_order.md" 2>&1 | tee "$out/lume.log" || failed=1
exit $failed
