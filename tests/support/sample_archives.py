"""Archives as samples have them, a folder a class, how tests prepare them, and the one line that refuses one."""

import io
from pathlib import Path

from PIL import Image

from jaxdiv.data import store
from jaxdiv.data.prepare import DataSettings, prepare_base_set


def png(value=0, size=(6, 5)):
    out = io.BytesIO()
    Image.new("RGB", size, (value % 256, 100, 200)).save(out, "PNG")
    return out.getvalue()


def of_classes(names, images=2, prefix="mini"):
    return {f"{prefix}/{name}/{i}.png": png(10 * i) for name in names for i in range(images)}


def prepare(base, pixels, settings):
    """A prepared table and its facts; records lie beside the archives."""
    into = Path(settings.dir or settings.archive_dir) / f"table-{base}-{pixels}"
    facts = prepare_base_set(base, pixels, settings, into)
    return store.read_table(into), facts


def data(archives, **fields):
    return DataSettings(str(archives), str(archives / "prepared"), min_images=2, **fields)


def check_one_line(error, *words):
    """A library's error: one line that has every one of `words`, and none of the command's flags."""
    message = str(error.value)
    assert "\n" not in message and "--config" not in message and "--workdir" not in message
    for word in words:
        assert str(word) in message, message
    return message
