"""The GPUs of this machine through NVML (`--gpu local`, package nvidia-ml-py): the same series as dcgm-exporter's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

from llmgen.errors import ConfigError
from llmgen.telemetry.prometheus import Reading, ScrapeError

INSTALL: Final = "pip install 'llmgen[gpu]'"
# Clock event reasons that mean heat (nvml.h): software thermal slowdown, hardware slowdown, hardware thermal slowdown.
THERMAL: Final = 0x20 | 0x08 | 0x40
XID_EVENT: Final = 0x08  # nvmlEventTypeXidCriticalError
TEMPERATURE_GPU: Final = 0
CLOCK_SM: Final = 1


class LocalGpus:
    """Every GPU that NVML shows. nvml: the module pynvml; None: import it."""

    def __init__(self, nvml: Any = None) -> None:
        """ConfigError if the package, the driver or a GPU is missing."""
        self._nvml = _import() if nvml is None else nvml
        try:
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
            self._devices = [self._nvml.nvmlDeviceGetHandleByIndex(number) for number in range(count)]
        except self._nvml.NVMLError as error:
            raise ConfigError(f"gpu='local': NVML does not work on this machine: {error}") from None
        if not self._devices:
            raise ConfigError("gpu='local': NVML shows no GPU on this machine")
        self._xids: dict[int, int] = {}
        self._events = self._watch_xids()

    def read(self, *, buckets: bool, patience_s: float) -> Reading:
        """What a GPU does not tell is not there. ScrapeError if none tells anything."""
        values: dict[str, float] = {}
        self._take_xids()
        for number, device in enumerate(self._devices):
            for name, value in self._device(device).items():
                values[f"{name}[{number}]"] = value
            if number in self._xids:
                values[f"gpu_xid[{number}]"] = float(self._xids[number])
        if not values:
            raise ScrapeError("NVML told nothing")
        return Reading(values, {}, "nvml")

    def _device(self, device: Any) -> dict[str, float]:
        n = self._nvml
        found: dict[str, float] = {}
        self._put(found, lambda: {"gpu_util": n.nvmlDeviceGetUtilizationRates(device).gpu / 100})
        self._put(found, lambda: _memory(n.nvmlDeviceGetMemoryInfo(device)))
        self._put(found, lambda: {"gpu_temperature": n.nvmlDeviceGetTemperature(device, TEMPERATURE_GPU)})
        self._put(found, lambda: {"gpu_power": n.nvmlDeviceGetPowerUsage(device) / 1000})
        self._put(found, lambda: {"gpu_energy": n.nvmlDeviceGetTotalEnergyConsumption(device) / 1000})
        self._put(found, lambda: {"gpu_clock": n.nvmlDeviceGetClockInfo(device, CLOCK_SM) * 1e6})
        self._put(found, lambda: {"gpu_throttled": bool(self._reasons(device) & THERMAL)})
        return found

    def _reasons(self, device: Any) -> int:
        n = self._nvml
        # renamed in driver 535; older modules know the old name only
        ask = getattr(n, "nvmlDeviceGetCurrentClocksEventReasons", None) or n.nvmlDeviceGetCurrentClocksThrottleReasons
        return int(ask(device))

    def _put(self, found: dict[str, float], ask: Callable[[], dict[str, float]]) -> None:
        with contextlib.suppress(self._nvml.NVMLError, AttributeError):  # this GPU or driver does not tell it
            found.update({name: float(value) for name, value in ask().items()})

    def _watch_xids(self) -> Any:
        n = self._nvml
        try:
            events = n.nvmlEventSetCreate()
            for device in self._devices:
                n.nvmlDeviceRegisterEvents(device, XID_EVENT, events)
        except (n.NVMLError, AttributeError):
            return None
        return events

    def _take_xids(self) -> None:
        """XIDs since the last look. Bounded: a GPU in trouble may have many."""
        if self._events is None:
            return
        n = self._nvml
        for _ in range(64):
            try:
                event = n.nvmlEventSetWait_v2(self._events, 0)
                index = n.nvmlDeviceGetIndex(event.device)
            except (n.NVMLError, AttributeError):
                return  # none is waiting
            self._xids[int(index)] = int(event.eventData)

    def close(self) -> None:
        with contextlib.suppress(self._nvml.NVMLError, AttributeError):
            if self._events is not None:
                self._nvml.nvmlEventSetFree(self._events)
            self._nvml.nvmlShutdown()

    def abort(self) -> None:
        """Nothing here waits."""


def _memory(info: Any) -> dict[str, float]:
    return {"gpu_memory_used": info.used, "gpu_memory_free": info.free}


def _import() -> Any:
    try:
        import pynvml
    except ImportError:
        raise ConfigError(f"gpu='local': needs nvidia-ml-py; {INSTALL}") from None
    return pynvml
