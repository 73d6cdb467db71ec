#!/bin/sh
# The curve of EWC's strength: held-out seed 100, the first three tasks of parcel with 320 samples each.
# The rule, written down before looking: of the powers of ten, the one with the highest final average becomes the default.
#   sh benchmarks/ewc_strength.sh runs/ewc-strength
set -eu
out=${1:-runs/ewc-strength}
here=$(dirname "$0")
export OMP_NUM_THREADS=1
for strength in 0 1e2 1e3 1e4 1e5 1e6; do
  echo "$strength"
done | xargs -P "${JOBS:-2}" -I{} evertune run "$here/three.yaml" --model smol --method ewc --seed 100 --limit 320 \
  --set ewc.strength={} --out "$out/{}"
for strength in 0 1e2 1e3 1e4 1e5 1e6; do
  printf '%s ' "$strength"
  python3 -c 'import json,sys; m=json.load(open(sys.argv[1]))["metrics"]; print(m["final_average"], m["learning"], m["forgetting"])' \
    "$out/$strength/matrix.json"
done
