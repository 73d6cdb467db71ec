#!/bin/sh
# The result table of docs/results.md: all methods, three seeds. Resumable: the same command again goes on where it was.
# Two jobs run side by side, one thread each, which is the best use of two cores. Estimated, not measured: an hour and
# a half on two cores without bfloat16 hardware.
#   sh benchmarks/table.sh runs/table
#   evertune compare runs/table --markdown
set -eu
out=${1:-runs/table}
methods="direct sequential eproj replay joint ewc"
export OMP_NUM_THREADS=1
for seed in 0 1 2; do
  for method in $methods; do
    echo "$seed $method"
  done
done | xargs -P "${JOBS:-2}" -L 1 sh -c 'evertune run parcel --model smol --method "$2" --seed "$1" --out "$0/s$1/$2"' "$out"
