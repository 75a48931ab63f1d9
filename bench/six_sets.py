"""One study over six of one's own data sets, each given in another form, and two unions: the chain to its report.

    python bench/six_sets.py --samples=DIR --workdir=W

DIR holds samples as `tests` take them: caltech101_sample.tar, gtsrb_sample.tar, tiny_imagenet_sample.tar,
miniimagenet_sample.tar, flowers_sample.tar, dtd_sample.tar, omniglot_png.zip, and the weights
resnet50_imagenet_fp16.safetensors. The forms are made in W/forms: Caltech-101 as a folder, GTSRB as a .tar,
Tiny-ImageNet as a .zip, Mini-ImageNet as a folder of images with a CSV, Flowers as a .npz, and Omniglot as a TFDS data
set. DTD's ten classes, too few for a split in three, are refused first. Then W/study has the report.
"""

import csv
import io
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from absl import app, flags
from PIL import Image

SAMPLES = flags.DEFINE_string("samples", None, "The folder of samples.", required=True)
WORKDIR = flags.DEFINE_string("workdir", "six-sets", "Where the forms and the study are.")

LAUNCH = Path(__file__).parents[1] / "launch.py"
_NPZ_PIXELS = 48  # a .npz has images of one size
_CHARACTERS = 200  # of Omniglot
BENCHMARKS = "('caltech','gtsrb','tiny','mini','flowers','drawn','caltech+gtsrb','mini+drawn')"
SETTINGS = {
    "config.data.partial": "true",  # the sample of Flowers has a class of one image
    "config.methods": "('pt','fo_maml_5','ho_maml_5')",
    "config.probe.name": "resnet50_v1",
    "config.probe.pixels": "48",
    "config.probe.tasks": "10",
    "config.learner.width": "8",
    "config.learner.pixels": "28",
    "config.pt.steps": "300",
    "config.maml.steps": "60",
    "config.maml.meta_batch": "2",
    "config.training.validate_every": "0",
    "config.evaluation.tasks": "100",
}


def main(argv: list[str]) -> int:
    samples, workdir = Path(SAMPLES.value).resolve(), Path(WORKDIR.value)
    forms = workdir / "forms"
    forms.mkdir(parents=True, exist_ok=True)
    paths = {name: make(samples, forms) for name, make in FORMS.items()}
    weights = samples / "resnet50_imagenet_fp16.safetensors"
    common = [sys.executable, str(LAUNCH), "--config=own", f"--config.probe.weights={weights}"]
    common += [f"--{name}={value}" for name, value in SETTINGS.items()]
    sets = [f"--config.benchmarks={BENCHMARKS}"]
    sets += [f"--config.datasets.{name}.path={path}" for name, path in paths.items()]
    few = [f"--config.datasets.textures.path={samples / 'dtd_sample.tar'}", "--config.benchmarks=('textures',)"]
    start = time.monotonic()
    refused = subprocess.run([*common, *few, f"--workdir={workdir / 'few'}"], capture_output=True, text=True)
    print(
        f"DTD after {time.monotonic() - start:.0f} s, exit code {refused.returncode}: {refused.stderr.strip()}",
        flush=True,
    )
    if refused.returncode != 1 or (workdir / "few").exists():
        return 1
    for stages in ("prepare", "prepare,embed,diversity,train,evaluate,correlate,report"):
        start = time.monotonic()
        subprocess.run([*common, *sets, f"--workdir={workdir / 'study'}", f"--stages={stages}"], check=True)
        print(f"{stages}: {(time.monotonic() - start) / 60:.1f} min", flush=True)
    return 0


def _images(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """The class, the file's name and the content of each image of a .tar with a folder for each class."""
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file:
                yield PurePosixPath(member.name).parent.name, PurePosixPath(member.name).name, file.read()


def _folder(samples: Path, forms: Path) -> Path:
    for of_class, name, content in _images(samples / "caltech101_sample.tar"):
        file = forms / "caltech" / of_class / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return forms / "caltech"


def _tar(samples: Path, forms: Path) -> Path:
    return shutil.copy(samples / "gtsrb_sample.tar", forms / "gtsrb.tar")


def _zip(samples: Path, forms: Path) -> Path:
    with zipfile.ZipFile(forms / "tiny.zip", "w") as archive:
        for of_class, name, content in _images(samples / "tiny_imagenet_sample.tar"):
            archive.writestr(f"tiny/{of_class}/{name}", content)
    return forms / "tiny.zip"


def _csv(samples: Path, forms: Path) -> Path:
    folder = forms / "mini"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["filename", "label"])
        for of_class, name, content in _images(samples / "miniimagenet_sample.tar"):
            (folder / "images" / f"{of_class}_{name}").write_bytes(content)
            rows.writerow([f"{of_class}_{name}", of_class])
    return folder


def _npz(samples: Path, forms: Path) -> Path:
    images, labels = [], []
    for of_class, _, content in _images(samples / "flowers_sample.tar"):
        image = Image.open(io.BytesIO(content)).convert("RGB").resize((_NPZ_PIXELS, _NPZ_PIXELS))
        images.append(np.asarray(image))
        labels.append(of_class)
    np.savez(forms / "flowers.npz", images=np.stack(images), labels=np.array(labels))
    return forms / "flowers.npz"


def _tfds(samples: Path, forms: Path) -> Path:
    import tensorflow_datasets as tfds

    by_class: dict[str, list[bytes]] = {}
    with zipfile.ZipFile(samples / "omniglot_png.zip") as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".png") and "background" in name:
                by_class.setdefault(str(PurePosixPath(name).parent), []).append(archive.read(name))
    kept = dict(list(by_class.items())[:_CHARACTERS])
    folder = forms / "tfds"
    shutil.rmtree(folder, ignore_errors=True)

    class Characters(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image, label = tfds.features.Image(shape=(None, None, 1)), tfds.features.ClassLabel(names=list(kept))
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({"image": image, "label": label})
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for of_class, contents in kept.items():
                for number, content in enumerate(contents):
                    yield f"{of_class}/{number}", {"image": io.BytesIO(content), "label": of_class}

    Characters(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder / "characters" / "1.0.0"


FORMS = {"caltech": _folder, "gtsrb": _tar, "tiny": _zip, "mini": _csv, "flowers": _npz, "drawn": _tfds}

if __name__ == "__main__":
    app.run(main)
