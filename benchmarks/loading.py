"""How long a model takes to load, in a fresh process each time, imports included.

python benchmarks/loading.py                       # smol, 5 times
python benchmarks/loading.py --model tiny-aligned
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

LOAD = "import sys; from evertune.models import load_lmm; load_lmm(sys.argv[1])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smol")
    parser.add_argument("--times", type=int, default=5)
    wanted = parser.parse_args()
    seconds = []
    for _ in range(wanted.times):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", LOAD, wanted.model], check=True)
        seconds.append(time.perf_counter() - start)
    print(f"{wanted.model}: {statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})")


if __name__ == "__main__":
    main()
