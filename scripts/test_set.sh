#!/bin/sh
# Run the tests of `make test` on another set of dependencies than constraints.txt: the newest releases, also those beyond the
# ranges in pyproject.toml, or the lowest that the ranges allow. Each set has an environment of its own in build/.
#   sh scripts/test_set.sh newest|lowest [PYTHON] [arguments of pytest]
set -eu
cd "$(dirname "$0")/.."
set_name=$1
python=${2:-python3}
[ $# -lt 2 ] && shift 1 || shift 2
folder=build/sets/$set_name
mkdir -p "$folder"
[ -x "$folder/uv/bin/uv" ] || { "$python" -m venv "$folder/uv" && "$folder/uv/bin/python" -m pip install --quiet 'uv>=0.9'; }
uv=$folder/uv/bin/uv
case $set_name in
  newest) sed -E 's/,<[0-9.]+//g' pyproject.toml >"$folder/pyproject.toml"; resolution=highest ;;
  lowest) cp pyproject.toml "$folder/pyproject.toml"; resolution=lowest-direct ;;
  *) echo "scripts/test_set.sh: the set is newest or lowest, not '$set_name'" >&2; exit 2 ;;
esac
"$uv" venv --quiet --clear --python "$python" "$folder/venv"
"$uv" pip compile --quiet --all-extras --upgrade --resolution $resolution --python "$folder/venv/bin/python" \
  --output-file "$folder/requirements.txt" "$folder/pyproject.toml"
"$uv" pip install --quiet --python "$folder/venv/bin/python" -r "$folder/requirements.txt"
"$uv" pip install --quiet --python "$folder/venv/bin/python" --no-deps -e .
echo "$set_name: $(grep -E '^(torch|transformers|accelerate|peft|numpy|gradio)==' "$folder/requirements.txt" | tr '\n' ' ')"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -m pytest -m "not thorough" -n auto --dist worksteal "$@"
