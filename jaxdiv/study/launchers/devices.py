"""Which devices of this machine each worker process sees."""

import os
import re
import subprocess
import sys

from jaxdiv.errors import InputError

# In a process of its own, so that the driver holds no device. A TPU's chip can have two devices.
_LOOK = """
import jax
devices = jax.local_devices()
print(devices[0].platform, len({tuple(getattr(each, "coords", None) or (each.id,)) for each in devices}))
"""
_COUNT = "--xla_force_host_platform_device_count"
_TPU_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}


def environments(workers: int, devices_per_unit: int) -> list[dict[str, str]]:
    """The variables of each worker's environment: `workers` of them, or as many as the devices allow where that is 0.

    Args:
      devices_per_unit: how many devices each worker sees, and no other does; 0: all of them.

    Raises:
      InputError: there are not so many devices.
    """
    if not devices_per_unit:
        # They share the devices, and the memory of a GPU.
        share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / workers:.3f}"}
        return [{name: os.environ.get(name, value) for name, value in share.items()} for _ in range(workers)]
    platform, count = _look()
    fits = count // devices_per_unit
    workers = workers or fits
    if workers > fits or not fits:
        raise InputError(
            f"--workers={workers} with --devices_per_unit={devices_per_unit}: this machine has {count} {platform} "
            f"device{'s' * (count > 1)}"
        )
    groups = [
        range(first, first + devices_per_unit) for first in range(0, workers * devices_per_unit, devices_per_unit)
    ]
    return [_visible(platform, list(group), devices_per_unit) for group in groups]


def _visible(platform: str, numbers: list[int], each: int) -> dict[str, str]:
    """The variables by which a process sees the devices of these numbers alone."""
    if platform == "tpu":
        if each not in _TPU_BOUNDS:
            raise InputError(f"--devices_per_unit={each}: of a TPU's chips {sorted(_TPU_BOUNDS)} can go together")
        chips = ",".join(map(str, numbers))
        return {
            "TPU_VISIBLE_CHIPS": chips,
            "TPU_CHIPS_PER_PROCESS_BOUNDS": _TPU_BOUNDS[each],
            "TPU_PROCESS_BOUNDS": "1,1,1",
        }
    if platform == "cpu":  # virtual ones
        others = re.sub(rf"{_COUNT}=\d+", "", os.environ.get("XLA_FLAGS", "")).split()
        return {"XLA_FLAGS": " ".join([*others, f"{_COUNT}={each}"]), "JAX_PLATFORMS": "cpu"}
    name = "CUDA_VISIBLE_DEVICES" if platform in ("gpu", "cuda") else "ROCR_VISIBLE_DEVICES"
    known = os.environ.get(name, "").split(",") if os.environ.get(name) else None
    return {name: ",".join(known[number] if known else str(number) for number in numbers)}


def _look() -> tuple[str, int]:
    """The platform of this machine's devices, and how many there are."""
    done = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"--devices_per_unit: {(done.stderr.strip().splitlines() or ['no device'])[-1]}")
    platform, count = done.stdout.split()
    return platform, int(count)
