"""The GPUs of this machine through a fake NVML: units, what a GPU does not tell, heat, XIDs."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from llmgen.errors import ConfigError
from llmgen.telemetry.gpu import LocalGpus
from llmgen.telemetry.prometheus import ScrapeError


class FakeNvml:
    """As much of the module pynvml as is used: two GPUs, of which the second tells little."""

    class NVMLError(Exception):
        pass

    def __init__(self, count: int = 2, works: bool = True) -> None:
        self.count, self.works, self.open = count, works, 0
        self.reasons = 0x4  # software power cap
        self.xids: list[tuple[int, int]] = []

    def nvmlInit(self) -> None:
        if not self.works:
            raise self.NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetIndex(self, device: int) -> int:
        return device

    def _only_first(self, device: int) -> None:
        if device:
            raise self.NVMLError("Not Supported")

    def nvmlDeviceGetUtilizationRates(self, device: int) -> Any:
        return SimpleNamespace(gpu=75, memory=20)

    def nvmlDeviceGetMemoryInfo(self, device: int) -> Any:
        return SimpleNamespace(total=100, used=60, free=40)

    def nvmlDeviceGetTemperature(self, device: int, sensor: int) -> int:
        assert sensor == 0
        self._only_first(device)
        return 66

    def nvmlDeviceGetPowerUsage(self, device: int) -> int:
        self._only_first(device)
        return 350_500

    def nvmlDeviceGetTotalEnergyConsumption(self, device: int) -> int:
        self._only_first(device)
        return 5_000

    def nvmlDeviceGetClockInfo(self, device: int, kind: int) -> int:
        assert kind == 1
        self._only_first(device)
        return 1980

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, device: int) -> int:
        return self.reasons

    def nvmlEventSetCreate(self) -> str:
        return "events"

    def nvmlEventSetFree(self, events: str) -> None:
        assert events == "events"

    def nvmlDeviceRegisterEvents(self, device: int, kind: int, events: str) -> None:
        assert kind == 8

    def nvmlEventSetWait_v2(self, events: str, timeout_ms: int) -> Any:
        assert timeout_ms == 0
        if not self.xids:
            raise self.NVMLError("Timeout")
        device, xid = self.xids.pop(0)
        return SimpleNamespace(device=device, eventData=xid)


def read(gpus: LocalGpus) -> dict[str, float]:
    return gpus.read(buckets=False, patience_s=1.0).values


def test_units_are_si_and_what_a_gpu_does_not_tell_is_absent() -> None:
    nvml = FakeNvml()
    gpus = LocalGpus(nvml)
    assert read(gpus) == {
        "gpu_util[0]": 0.75, "gpu_memory_used[0]": 60, "gpu_memory_free[0]": 40, "gpu_temperature[0]": 66,
        "gpu_power[0]": 350.5, "gpu_energy[0]": 5.0, "gpu_clock[0]": 1.98e9, "gpu_throttled[0]": 0,
        "gpu_util[1]": 0.75, "gpu_memory_used[1]": 60, "gpu_memory_free[1]": 40, "gpu_throttled[1]": 0,
    }  # fmt: skip
    assert gpus.read(buckets=True, patience_s=1.0).family == "nvml"
    gpus.close()
    assert nvml.open == 0


@pytest.mark.parametrize(("reasons", "hot"), [(0x20, 1), (0x40, 1), (0x08, 1), (0x4 | 0x1, 0), (0, 0)])
def test_only_heat_is_throttling_by_temperature(reasons: int, hot: int) -> None:
    nvml = FakeNvml()
    nvml.reasons = reasons
    assert read(LocalGpus(nvml))["gpu_throttled[0]"] == hot


def test_the_last_xid_stays() -> None:
    nvml = FakeNvml()
    gpus = LocalGpus(nvml)
    assert "gpu_xid[1]" not in read(gpus)
    nvml.xids = [(1, 31), (1, 79)]
    assert read(gpus)["gpu_xid[1]"] == 79
    assert read(gpus)["gpu_xid[1]"] == 79
    assert "gpu_xid[0]" not in read(gpus)


def test_a_flood_of_xids_does_not_hold_a_reading_up() -> None:
    nvml = FakeNvml()
    nvml.nvmlEventSetWait_v2 = lambda events, timeout_ms: SimpleNamespace(device=0, eventData=13)  # type: ignore[method-assign]
    assert read(LocalGpus(nvml))["gpu_xid[0]"] == 13


def test_a_driver_without_events_still_tells_the_rest() -> None:
    nvml = FakeNvml()

    def refuse(*_: object) -> None:
        raise nvml.NVMLError("Not Supported")

    nvml.nvmlDeviceRegisterEvents = refuse  # type: ignore[method-assign]
    assert read(LocalGpus(nvml))["gpu_util[0]"] == 0.75


def test_a_gpu_that_falls_off_the_bus_is_a_failed_reading() -> None:
    nvml = FakeNvml(count=1)
    gpus = LocalGpus(nvml)

    def lost(*_: object) -> None:
        raise nvml.NVMLError("GPU is lost")

    for name in dir(nvml):
        if name.startswith("nvmlDeviceGet") and name != "nvmlDeviceGetIndex":
            setattr(nvml, name, lost)
    with pytest.raises(ScrapeError, match="told nothing"):
        read(gpus)


@pytest.mark.parametrize(
    ("nvml", "said"), [(FakeNvml(works=False), "Driver Not Loaded"), (FakeNvml(count=0), "shows no GPU")]
)
def test_a_machine_without_a_gpu_is_a_configuration_that_cannot_work(nvml: FakeNvml, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LocalGpus(nvml)


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(ConfigError, match=r"llmgen\[gpu\]"):
        LocalGpus()
