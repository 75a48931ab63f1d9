"""Peak memory and time of preparing a user's data set: many small files, and one large archive.

    python bench/memory.py --files=200000 --archive_gb=2

Each is made in a temporary folder, then looked at, hashed and prepared at 84 px in a process of its own, whose peak
resident memory counts. The bound for 200,000 files is 1.5 GB.
"""

import io
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

FILES = flags.DEFINE_integer("files", 200_000, "How many small files, in 200 classes; 0: none.")
ARCHIVE_GB = flags.DEFINE_float("archive_gb", 2.0, "Size of the .tar, of images of 400 kB; 0: none.")
PIXELS = flags.DEFINE_integer("pixels", 84, "Side of the prepared images.")
PATH = flags.DEFINE_string("path", None, "Prepare this set and say what it took; used by this script itself.")

_CLASSES = 200
_LARGE = 400_000  # bytes of an image in the archive


def main(argv: list[str]) -> None:
    if PATH.value:
        return _prepare(Path(PATH.value))
    with tempfile.TemporaryDirectory() as folder:
        print(
            "| set | files | bytes | looked at | hashed | prepared | peak memory |\n|---|--:|--:|--:|--:|--:|--:|",
            flush=True,
        )
        for make, wanted in ((_small_files, FILES.value), (_archive, ARCHIVE_GB.value)):
            if wanted:
                path = make(Path(folder) / make.__name__, wanted)
                line = [sys.executable, __file__, f"--path={path}", f"--pixels={PIXELS.value}"]
                subprocess.run(line, check=True)


def _prepare(path: Path) -> None:
    from jaxdiv.data.own import fingerprint
    from jaxdiv.data.prepare import DataSettings, prepare_base_set
    from jaxdiv.progress_bar import bar

    settings = DataSettings(own={"mine": str(path)}, min_images=2)
    times = [time.monotonic()]
    outlined = settings.outline("mine")
    times.append(time.monotonic())
    fingerprint.of_set(str(path), outlined)
    times.append(time.monotonic())
    with tempfile.TemporaryDirectory(dir=path.parent) as into, bar("preparing") as report:
        told = lambda share, note: report(share)
        prepare_base_set("mine", PIXELS.value, settings, Path(into) / "table", told, outlined)
    times.append(time.monotonic())
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")))
    spent = " | ".join(f"{end - start:.0f} s" for start, end in pairwise(times))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kB on Linux
    print(
        f"| {path.name} | {len(outlined.items):,} | {size / 1e9:.2f} GB | {spent} | {peak / 1e9:.2f} GB |", flush=True
    )


def _small_files(folder: Path, files: int) -> Path:
    """PNG files of 8 px, of which no two are alike."""
    rng = np.random.default_rng(0)
    for of_class in range(_CLASSES):
        (folder / f"class {of_class:03}").mkdir(parents=True)
        for number in range(files // _CLASSES):
            name = folder / f"class {of_class:03}" / f"{number:05}.png"
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(name, compress_level=0)
    return folder


def _archive(folder: Path, gigabytes: float) -> Path:
    """A .tar of BMP files."""
    rng = np.random.default_rng(0)
    side = int((_LARGE / 3) ** 0.5)
    folder.mkdir()
    with tarfile.open(folder / "large.tar", "w") as archive:
        for number in range(int(gigabytes * 1e9 / _LARGE)):
            out = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(out, "BMP")
            entry = tarfile.TarInfo(f"class {number % 20:02}/{number:05}.bmp")
            entry.size = out.tell()
            archive.addfile(entry, io.BytesIO(out.getvalue()))
    return folder / "large.tar"


if __name__ == "__main__":
    app.run(main)
