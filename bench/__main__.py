"""Run the benchmarks of the engine: ``python -m bench [MB ...]``. The other modules are run by their own names."""

from __future__ import annotations

import subprocess
import sys

from bench import scan


def main() -> None:
    """Print the tables of the scanner for logs of the given sizes, then what each ordering rule is worth."""
    scan.main([int(float(size) * scan.MB) for size in sys.argv[1:]] or None)
    print()
    sys.stdout.flush()
    subprocess.run([sys.executable, "-m", "bench.ablation"], check=False)


main()
