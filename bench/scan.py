"""Measure the scanner and the engine: speed, memory, scaling and hostile inputs. Prints tables for bench/README.md.

Hold in mind: times are CPU seconds of the measuring process, with a warm page cache; each figure stands beside ``read()`` and ripgrep
on the same file in the same run, because machines differ and neighbours are noisy.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from attr_actors.core.engine import Engine
from attr_actors.core.paths import admit
from attr_actors.core.signatures.database import open_database
from attr_actors.core.signatures.library import load_signatures
from attr_actors.models import EngineConfig
from bench import adversarial
from bench.generator import write_megatron_log

MB = 1_000_000
CONTROL = "d=bytearray(range(256))*4096\nfor _ in range(int(__import__('sys').argv[1])): d.count(b'xy')"


def cpu_s() -> float:
    """Return the CPU time of this process."""
    return time.process_time()


def best_of(times: int, work: Callable[[], object]) -> float:
    """Return the least CPU time of several runs."""
    found = []
    for _ in range(times):
        started = cpu_s()
        work()
        found.append(cpu_s() - started)
    return min(found)


def read_file(path: Path) -> None:
    """Read a file into one reused buffer."""
    buffer = bytearray(1 << 20)
    fd = os.open(path, os.O_RDONLY)
    try:
        while os.readv(fd, [buffer]):
            pass
    finally:
        os.close(fd)


def run_ripgrep(path: Path, patterns: Path) -> float | None:
    """Return ripgrep's CPU seconds for counting the lines that match any row, or None without ripgrep."""
    program = shutil.which("rg")
    if program is None:
        return None
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [
        program,
        "--no-config",
        "-a",
        "-c",
        "--no-unicode",
        "--dfa-size-limit",
        "1G",
        "--regex-size-limit",
        "1G",
        "-j1",
        "-f",
        str(patterns),
        str(path),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode == 2:
        raise RuntimeError(f"ripgrep: {done.stderr[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _for_ripgrep(regex: str) -> str:
    """Return a regex in Rust's dialect: no escapes of what needs none, no names that occur twice."""
    return re.sub(r"\\(?=[\"'<>/:=%!@,;` ])", "", re.sub(r"\(\?P<\w+>", "(?:", regex))


def measure_child(path: Path, cache: Path) -> dict[str, float]:
    """Analyse a log in a fresh process; return CPU seconds and the growth of its peak memory."""
    command = [sys.executable, "-m", "bench.scan", "--child", str(path), str(cache)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout))


def child(path: Path, cache: Path) -> None:
    """Print the figures of one analysis as JSON; a small log is analysed before, so that what is loaded once is not counted."""
    engine = Engine(EngineConfig(signatures_cache_dir=str(cache)))
    small = path.with_name("small.log")
    engine.analyze(admit(str(small), str(path.parent)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, wall = cpu_s(), time.perf_counter()
    analysis = engine.analyze(admit(str(path), str(path.parent)))
    figures = {
        "cpu_s": cpu_s() - started,
        "wall_s": time.perf_counter() - wall,
        "growth_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "bytes": analysis.log_bytes,
    }
    print(json.dumps({**figures, "answer": f"{analysis.cycles[-1].action} {analysis.cycles[-1].category}"}))


def table_speed(folder: Path, cache: Path, sizes: list[int]) -> None:
    """Print speed and memory for generated logs."""
    patterns = folder / "patterns.txt"
    patterns.write_text("\n".join(_for_ripgrep(row.regex) for row in load_signatures() if row.gate) + "\n")
    print("| log | way | MB per CPU-second | of read() | peak growth, MB | answer |\n|---|---|---|---|---|---|")
    for size in sizes:
        path = folder / f"megatron-{size}.log"
        true_size = write_megatron_log(path, size)
        reading = best_of(2, lambda path=path: read_file(path))  # type: ignore[misc]
        runs = [measure_child(path, cache) for _ in range(3 if size <= 1000 * MB else 1)]
        best = min(runs, key=lambda run: run["cpu_s"])
        name = f"{true_size / MB:.0f} MB"
        print(f"| {name} | read() | {true_size / MB / reading:.0f} | 1 | | |")
        speed = true_size / MB / best["cpu_s"]
        ratio = reading / best["cpu_s"]
        print(f"| {name} | analyze, path to attribution | {speed:.0f} | {ratio:.2f} | {best['growth_mb']:.0f} | {best['answer']} |")
        if size <= 1000 * MB:
            grep_s = run_ripgrep(path, patterns)
            print(
                f"| {name} | ripgrep, same rows | {true_size / MB / grep_s:.0f} | {reading / grep_s:.2f} | | |"
                if grep_s
                else "| | ripgrep | not installed | | | |"
            )
        sys.stdout.flush()


def table_scaling(folder: Path, cache: Path, size: int) -> None:
    """Print how two analyses at once compare with a control that is known to scale."""
    path = folder / f"megatron-{size}.log"
    write_megatron_log(path, size)
    analyse = [sys.executable, "-m", "bench.scan", "--child", str(path), str(cache)]
    control = [sys.executable, "-c", CONTROL, "2000"]

    def wall(command: list[str], count: int) -> float:
        started = time.perf_counter()
        running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(count)]
        for process in running:
            process.wait()
        return time.perf_counter() - started

    print("\n| work | one, s | two at once, s | scaling |\n|---|---|---|---|")
    for name, command in (("analyze", analyse), ("control", control)):
        one, two = wall(command, 1), wall(command, 2)
        print(f"| {name} | {one:.2f} | {two:.2f} | {2 * one / two:.2f} |", flush=True)


def table_adversarial(folder: Path, cache: Path, size: int) -> None:
    """Print speed and memory on hostile inputs."""
    print("\n| input | text, MB | MB per CPU-second | peak growth, MB | answer |\n|---|---|---|---|---|")
    path = folder / "hostile.log"
    for name in adversarial.PLAIN:
        text = adversarial.write_plain(path, name, size)
        _print_hostile(name, text, measure_child(path, cache))
    megatron = folder / "megatron-plain.log"
    write_megatron_log(megatron, size)
    for kind in ("gzip", "zstd"):
        text = adversarial.write_compressed(path, megatron, kind)
        _print_hostile(f"{kind} of a training log", text, measure_child(path, cache))
    adversarial.write_bomb(path, 4 * size)
    _print_hostile(f"zstd bomb of {4 * size / MB:.0f} MB of NUL", 4 * size, measure_child(path, cache))


def _print_hostile(name: str, text: int, found: dict[str, float]) -> None:
    print(f"| {name} | {text / MB:.0f} | {text / MB / found['cpu_s']:.0f} | {found['growth_mb']:.0f} | {found['answer']} |", flush=True)


def table_latency(folder: Path, cache: Path) -> None:
    """Print the latency of a small log and the time to load the signatures."""
    small = folder / "small.log"
    engine = Engine(EngineConfig(signatures_cache_dir=str(cache)))
    log = admit(str(small), str(folder))
    loading = best_of(3, lambda: open_database(cache_dir=str(cache)))
    answering = best_of(20, lambda: engine.analyze(log))
    print(f"\n| small log, {small.stat().st_size} bytes, CPU ms | signatures load from cache, CPU ms |\n|---|---|")
    print(f"| {answering * 1000:.1f} | {loading * 1000:.0f} |", flush=True)


def main(sizes: list[int] | None = None, hostile: int = 200 * MB) -> None:
    """Print all tables; ``sizes`` are those of the generated logs in bytes."""
    sizes = sizes or [1000 * MB, 10_000 * MB]
    with tempfile.TemporaryDirectory(prefix="attr-bench-", dir=os.environ.get("ATTR_BENCH_DIR")) as name:
        folder, cache = Path(name), Path(name) / "cache"
        small = [b"epoch 1 done\n"] * 150 + [adversarial.NOTE]
        (folder / "small.log").write_bytes(b"".join(small))
        open_database(cache_dir=str(cache))
        table_latency(folder, cache)
        print()
        table_speed(folder, cache, sizes)
        table_scaling(folder, cache, sizes[0])
        for path in folder.glob("megatron-*"):
            path.unlink()
        table_adversarial(folder, cache, hostile)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main([int(float(size) * MB) for size in sys.argv[1:]] or None)
