"""Memory and disk of a soak: a long run at a constant rate of events, at level `requests`.

    python benchmarks/soak_memory.py --minutes 10 --events 20000
    python benchmarks/soak_memory.py --minutes 10 --events 50000 --http 2

The controller's and the workers' own memory (RssAnon) is read every second while they offer load. What they have after
minute 2 is the base: by then every buffer has had its size. Targets: at most 2 MB more at the end, no slope that would
matter in a day, at most 300 bytes of records a request and 200 kB a minute. The peak of merging and reporting, once the
load is over, is printed beside it. With --http 2 the server's tokens come in steps of 20 ms on few connections, as
engines send them: that is a twentieth of the cost of an event, for machines that cannot deliver the rate otherwise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from processes import children

from llmgen.metrics.stability import theil_sen
from llmgen.simulator import Endpoint, Options

TOKENS = 128
SETTLED_S = 120.0
GROWTH_MB = 2.0
REQUEST_BYTES, MINUTE_BYTES = 300, 200_000


def own_mb(pid: int) -> float | None:
    """RssAnon; None once the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = [line.split()[1] for line in text.splitlines() if line.startswith("RssAnon")]
    return int(found[0]) / 1024 if found else None


def disk_bytes(directory: Path) -> int:
    """Allocated, not apparent: a segment that is made ahead counts."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512 if path.is_file() else 0
        except OSError:
            continue  # a segment that was just unlinked
    return total


class Watch:
    """Samples of one run: seconds since its first, MB of the controller and of each worker, bytes on disk."""

    def __init__(self, command: list[str], out: Path) -> None:
        self.t: list[float] = []
        self.mb: dict[str, list[float]] = {}
        self.disk: list[int] = []
        self.peak_after = 0.0  # of the controller, once the workers are gone
        began = time.monotonic()
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while running.poll() is None:
                time.sleep(1.0)
                workers = children(running.pid)
                controller = own_mb(running.pid)
                if controller is None:
                    break
                if not workers:
                    self.peak_after = max(self.peak_after, controller) if self.t else 0.0
                    continue
                now = {"controller": controller}
                now |= {f"worker {n}": mb for n, pid in enumerate(workers) if (mb := own_mb(pid)) is not None}
                self.t.append(time.monotonic() - began)
                for name, value in now.items():
                    self.mb.setdefault(name, []).append(value)
                if len(self.t) % 10 == 0:
                    self.disk.append(disk_bytes(out))
        finally:
            if running.poll() is None:
                running.terminate()
            self.code = running.wait(60)

    def growth(self, name: str) -> tuple[float, float, float]:
        """(MB after SETTLED_S, largest MB later, MB an hour) of a process."""
        values = np.array(self.mb[name])
        t = np.array(self.t[len(self.t) - len(values) :])
        later = t >= SETTLED_S
        if np.count_nonzero(later) < 10:
            raise SystemExit(f"{name}: too short; --minutes must be more than {SETTLED_S / 60:g}")
        # each tenth second: the slopes of all pairs are many
        slope = theil_sen(t[later][::10] / 3600, values[later][::10])
        return float(values[later][0]), float(values[later].max()), slope


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--events", type=float, default=20_000, help="a second, offered")
    parser.add_argument("--http", choices=["1.1", "2"], default="1.1")
    parser.add_argument("--server-core", type=int, default=0)
    a = parser.parse_args()
    rate = a.events / TOKENS
    options = Options(ttft="100ms", itl="20ms", cores=str(a.server_core), step="20ms" if a.http == "2" else "0")
    with Endpoint(options) as endpoint, tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        command = [sys.executable, "-m", "llmgen", "run", "--url", endpoint.url, "--out", str(out), "--quiet"]
        command += ["--record", "requests", "--rate", str(rate), "--duration", f"{a.minutes:g}m"]
        command += ["--http", a.http, "--input-tokens", "128", "--output-tokens", str(TOKENS)]
        watch = Watch(command, out)
        run = (out / "latest").resolve()
        summary = json.loads((run / "summary.json").read_text())
        left = disk_bytes(run)
    sent = summary["requests"]["sent"]
    allowed = REQUEST_BYTES * sent + MINUTE_BYTES * a.minutes
    print(
        f"{summary['throughput']['events_per_s']:,.0f} events/s of {a.events:,.0f}, {sent:,} requests, "
        f"at most {summary['load']['peak_in_flight']:,} in flight, "
        f"verdict {summary['verdict']['status']} {'; '.join(summary['verdict']['reasons'])}"
    )
    kept = True
    for name in watch.mb:
        base, most, slope = watch.growth(name)
        kept &= most - base <= GROWTH_MB
        by_minute = " ".join(f"{mb:.1f}" for mb in watch.mb[name][59::60])
        print(f"{name}: {base:.1f} MB after minute 2, at most {most:.1f} later, {slope:+.2f} MB an hour ({by_minute})")
    print(f"controller, merging and reporting: {watch.peak_after:.1f} MB")
    print(
        f"disk: {max(watch.disk) / 1e6:.1f} MB at most while it ran, {left / 1e6:.1f} MB left "
        f"({left / max(sent, 1):.0f} B a request; allowed {allowed / 1e6:.1f} MB)"
    )
    kept &= left <= allowed
    return 0 if kept and watch.code in (0, 3) else 1


if __name__ == "__main__":
    sys.exit(main())
