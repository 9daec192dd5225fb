"""What a GPU can do at best, and times by its own clock.

The peak of multiply-adds is worked out (multiprocessors x lanes x highest clock x 2, from NVIDIA's tables): it is what
no kernel can exceed. The bandwidth is measured, by a copy on the device.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from .providers.base import Unavailable

# Multiply-adds of one multiprocessor in one cycle, by compute capability: (float32, float64).
_LANES = {
    (7, 5): (64, 2), (8, 0): (64, 32), (8, 6): (128, 2), (8, 7): (128, 2), (8, 9): (128, 2), (9, 0): (128, 64),
    (10, 0): (128, 64), (10, 3): (128, 2), (12, 0): (128, 2), (12, 1): (128, 2),
}  # fmt: skip
_COPY_BYTES = 1 << 28
_SAMPLE_MS = 2.0  # of one sample: an event is recorded to half a microsecond


class Clock:
    """Milliseconds between two points of the default stream, by CUDA events."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        try:
            from cuda.bindings import driver

            self._driver = driver
            self._call(driver.cuInit, 0)
            self.device = self._call(driver.cuDeviceGet, number)
            self._call(driver.cuCtxSetCurrent, self._call(driver.cuDevicePrimaryCtxRetain, self.device))
        except Unavailable:
            raise
        except Exception as error:  # no package, or no driver: each release has its own error for that
            raise Unavailable(f"no GPU: {error}") from None
        self._start, self._stop = (self._call(driver.cuEventCreate, 0) for _ in range(2))

    def _call(self, function: Any, *arguments: Any) -> Any:
        status, *values = function(*arguments)
        if status != 0:
            raise Unavailable(f"no GPU: {function.__name__} gives {status.name}")
        return values[0] if values else None

    def time(self, call: Callable[[], Any]) -> float:
        """Milliseconds that the device takes for what is queued by `call`."""
        self._call(self._driver.cuEventRecord, self._start, 0)
        call()
        self._call(self._driver.cuEventRecord, self._stop, 0)
        self._call(self._driver.cuEventSynchronize, self._stop)
        return float(self._call(self._driver.cuEventElapsedTime, self._start, self._stop))

    def attribute(self, name: str) -> int:
        """A number of the device, by the end of its CUDA name."""
        key = getattr(self._driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self._call(self._driver.cuDeviceGetAttribute, key, self.device))

    def name(self) -> str:
        """The GPU's name."""
        return self._call(self._driver.cuDeviceGetName, 100, self.device).decode().strip("\0 ")  # type: ignore[no-any-return]

    def gigabytes_per_second(self) -> float:
        """Measured copy bandwidth, bytes read plus written."""
        source, target = (self._call(self._driver.cuMemAlloc, _COPY_BYTES) for _ in range(2))
        ms = [
            self.time(lambda: self._call(self._driver.cuMemcpyDtoDAsync, target, source, _COPY_BYTES, 0))
            for _ in range(10)
        ]
        for memory in (source, target):
            self._call(self._driver.cuMemFree, memory)
        return 2 * _COPY_BYTES / statistics.median(ms) / 1e6


def timing(time: Callable[[Callable[[], Any]], float], call: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Median and 10th and 90th percentile, in milliseconds a call, of samples for `seconds`; at least 3.

    A sample is as many calls as take _SAMPLE_MS, queued one behind the other: so the device's time counts, unless the
    host cannot keep it busy.
    """

    def sample(calls: int) -> float:
        def run() -> None:
            for _ in range(calls):
                call()

        return time(run) / calls

    sample(1)
    calls = max(1, int(_SAMPLE_MS / max(sample(3), 1e-3)))
    spent, times = 0.0, []
    while len(times) < 3 or spent < 1e3 * seconds:
        times.append(sample(calls))
        spent += times[-1] * calls
    times.sort()
    return {
        "ms": statistics.median(times), "p10": times[len(times) // 10], "p90": times[len(times) * 9 // 10],
        "calls": calls * len(times),
    }  # fmt: skip


def peak_gflops(capability: tuple[int, int], multiprocessors: int, kilohertz: int, dtype: str) -> float:
    """GFLOP/s of all multiprocessors at the highest clock."""
    lanes = _LANES.get(capability, _LANES[12, 0])[dtype == "float64"]
    return 2 * multiprocessors * lanes * kilohertz / 1e6


def facts(device: str, dtype: str) -> dict[str, Any]:
    """The GPU's name and peaks, from a process of its own.

    Raises:
        Unavailable: there is none.
    """
    command = [sys.executable, "-m", "benchmarks.gpu", device.partition(":")[2] or "0", dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable((done.stderr.strip().splitlines() or ["no GPU"])[-1])
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def main(number: str, dtype: str) -> None:
    """Prints the facts as JSON."""
    clock = Clock(int(number))
    capability = clock.attribute("COMPUTE_CAPABILITY_MAJOR"), clock.attribute("COMPUTE_CAPABILITY_MINOR")
    peak = peak_gflops(capability, clock.attribute("MULTIPROCESSOR_COUNT"), clock.attribute("CLOCK_RATE"), dtype)
    print(
        json.dumps(
            {
                "processor": f"{clock.name()} (compute capability {capability[0]}.{capability[1]})",
                "gflops": peak,
                "gigabytes_per_second": clock.gigabytes_per_second(),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
