#!/usr/bin/env bash
# TOFU whole (4,000 rows, forget01, 05 and 10) with SmolLM2-135M-Instruct on a GPU, as far as the time goes: every step
# keeps what is there, and the same command goes on. From the repository's root:
#     bash benchmarks/tofu_on_gpu.sh FOLDER_OF_TOFU MODEL FOLDER_FOR_RESULTS
# MODEL: the GGUF file of `expunge demo --real`, or a folder of its parts (split -b 48M FILE PARTS/part.), which are
# joined: a machine that reaches no package index may take no more at a time. SIZE=try: every step on 20 rows, on a CPU.
# PYTHON names the interpreter. Nothing is installed; rows and models stay below build/.
set -uo pipefail
tofu=${1:?the folder of the files of TOFU}
model=${2:?the GGUF file of SmolLM2-135M-Instruct, or a folder of its parts}
out=${3:?a folder for the results}
python=${PYTHON:-python3}
size=${SIZE:-full}
export PYTHONPATH="src:benchmarks${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 EXPUNGE_CACHE="${EXPUNGE_CACHE:-$PWD/build/cache}"
mkdir -p "$out" "$EXPUNGE_CACHE"
kept="$EXPUNGE_CACHE/SmolLM2-135M-Instruct.Q4_1.gguf"
if [ ! -f "$kept" ]; then
    if [ -d "$model" ]; then cat "$model"/part.* > "$kept.part"; else cp "$model" "$kept.part"; fi
    mv "$kept.part" "$kept"
fi
[ "$size" = full ] && requests="2 10 20" || requests=1
failed=0
step() { "$python" benchmarks/tofu_small.py --tofu "$tofu" --size "$size" --steps "$@" 2>&1 | tee -a "$out/tofu.log" || failed=1; }
step data models
for count in $requests; do step twins compare --requests "$count"; done
for folder in build/"tofu_$size"/forget*/comparison; do
    name=$(basename "$(dirname "$folder")")
    mkdir -p "$out/$name" && cp "$folder"/comparison.{md,json,csv} "$out/$name/" || failed=1
done
exit $failed
