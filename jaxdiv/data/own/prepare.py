"""A user's data set -> a stored table: images are read one by one, decoded, and written to their places."""

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiv.data import store
from jaxdiv.data.decode import decoder
from jaxdiv.data.own.found import OwnSet
from jaxdiv.data.own.outline import TOO_SMALL, Outline, check_small
from jaxdiv.data.store import Settled
from jaxdiv.errors import InputError, unknown

BROKEN = "an image that cannot be decoded"
TWICE = "an image that its class has already"
NORMALISATIONS = ("imagenet", "measured")
_AHEAD = 64  # images that are read before they are decoded
_LEVELS = 256


def write_own(
    own: OwnSet,
    outlined: Outline,
    pixels: int,
    into: Path,
    min_images: int,
    partial: bool,
    skip_broken: bool,
    progress: Callable[[float, str], None],
) -> tuple[str, Settled, dict[str, Sequence[str]], dict[str, int]]:
    """Make the table of a user's set at `pixels` x `pixels` in the folder `into`.

    Returns:
      The sha256 of its pixels; what is in it; what was left out of it, by the reason in words; and how many images were
      changed, by how: "turned as its EXIF says".

    Raises:
      InputError: as `outline`; an image that cannot be decoded, unless `skip_broken`; a set that is all of one colour.
    """
    check_normalisation(own.normalisation)
    items, rows = outlined.found.items, outlined.items
    first = np.cumsum(outlined.count) - outlined.count
    of_row = np.repeat(np.arange(len(outlined.count)), outlined.count)
    levels = np.zeros((2, 3, _LEVELS), np.int64)  # how often each value is there: in the train split, in the others
    contents: dict[int, bytes] = {}  # by row
    changed: Counter[str] = Counter()
    left_out: dict[str, list[str]] = defaultdict(list)
    left_out |= {reason: list(names) for reason, names in outlined.left_out.items()}
    name = lambda row: items[int(rows[row])].name

    def images() -> Iterator[tuple[int, np.ndarray]]:
        done = 0
        for row, content, image in _decoded(own, outlined, pixels, changed):
            done += 1
            if done % 64 == 0 or done == len(rows):
                progress(done / len(rows), f"{done} of {len(rows)} images at {pixels} px")
            if isinstance(image, InputError):
                if not skip_broken:
                    raise image
                left_out[BROKEN].append(name(row))
                continue
            contents[row] = content
            yield row, image

    def settle() -> Settled:
        kept = _without_doubles(contents, of_row)
        left_out[TWICE] += map(name, sorted(contents.keys() - set(kept.tolist())))
        count = np.bincount(of_row[kept], minlength=len(first))
        lost = [
            f"{len(left_out[why])} {what}" for why, what in ((BROKEN, "broken"), (TWICE, "double")) if left_out[why]
        ]
        by_name = dict(zip(outlined.names, count.tolist(), strict=True))
        small = check_small(
            own.path, by_name, min_images, partial, f" without {' and '.join(lost)} ones" if lost else ""
        )
        left_out[TOO_SMALL] += small
        whole = np.array([name not in set(small) for name in outlined.names])
        chosen = np.flatnonzero(whole)
        kept = kept[whole[of_row[kept]]]
        split, names = [outlined.split[i] for i in chosen], [outlined.names[i] for i in chosen]
        return Settled(kept, count[chosen].tolist(), split, names)

    def look(places: np.ndarray, chunk: np.ndarray) -> None:
        trains = np.asarray(outlined.split)[of_row[places]] == 0
        for which, mine in enumerate((chunk[trains], chunk[~trains])):
            for channel in range(3):
                levels[which, channel] += np.bincount(mine[..., channel].ravel(), minlength=_LEVELS)

    def statistics() -> store.Statistics:
        if np.count_nonzero(levels.sum(0)) == 3:
            colour = tuple(levels.sum(0).argmax(1).tolist())
            raise InputError(
                f"{own.path}: every pixel of every image is {colour}: nothing is to be told apart. If these are 16-bit "
                f"or float images, give the values for black and white by `OwnSet.value_range`"
            )
        return _statistics(own, levels[0])

    digest, settled = store.write_rows(into, images(), (len(rows), pixels, pixels, 3), settle, look, statistics)
    return digest, settled, {reason: names for reason, names in left_out.items() if names}, dict(changed)


def check_normalisation(given: Any) -> None:
    """Raise InputError where a set's normalisation is neither a known name nor the statistics of three channels."""
    if isinstance(given, str):
        if given not in NORMALISATIONS:
            raise unknown("normalisation", given, [*NORMALISATIONS, "((mean, mean, mean), (std, std, std))"])
        return
    try:
        mean, std = np.asarray(given, float)
        fits = mean.shape == std.shape == (3,) and np.isfinite(mean).all() and np.isfinite(std).all() and std.all()
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise InputError(
            f"`OwnSet.normalisation` is {given!r}: give 'imagenet', 'measured', or the mean and the standard "
            f"deviation of three channels, of pixels in 0..1: ((.5, .5, .5), (.25, .25, .25))"
        )


def _decoded(
    own: OwnSet, outlined: Outline, pixels: int, changed: Counter[str]
) -> Iterator[tuple[int, bytes, np.ndarray | InputError]]:
    """Row, hash of the content, and the image or what is wrong with it, of every image of the table."""
    items = outlined.found.items
    row_of = np.full(len(items), -1)
    row_of[outlined.items] = np.arange(len(outlined.items))
    decode = decoder(pixels, False, background=own.background, value_range=own.value_range, notes=changed)

    def one(content: Any, name: str) -> tuple[bytes, np.ndarray | InputError]:
        data = content if isinstance(content, bytes) else np.ascontiguousarray(content).tobytes()
        try:
            return hashlib.sha256(data).digest(), decode(content, f"{own.path}: {name}")
        except InputError as error:
            return b"", error

    waiting: deque[tuple[int, Future]] = deque()
    with ThreadPoolExecutor() as pool:  # PIL decodes outside the interpreter lock
        for number, content in _read(own, outlined):
            if (row := int(row_of[number])) >= 0:
                waiting.append((row, pool.submit(one, content, items[number].name)))
            while len(waiting) > _AHEAD:
                row, future = waiting.popleft()
                yield row, *future.result()
        for row, future in waiting:
            yield row, *future.result()


def _read(own: OwnSet, outlined: Outline) -> Iterator[tuple[int, Any]]:
    """Every image of the set; an error of its files is theirs, not one of the table that is written."""
    came = 0
    try:
        for number, content in outlined.found.read():
            came += 1
            yield number, content
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise InputError(f"{own.path}{where} cannot be read: {error.strerror or error}") from None
    if came != len(outlined.found.items):
        raise InputError(f"{own.path} changed while it was read: run the same command again")


def _without_doubles(contents: dict[int, bytes], of_row: np.ndarray) -> np.ndarray:
    """The rows that are kept, in order: of images of one class with the same content, the first."""
    seen: dict[tuple[int, bytes], int] = {}
    for row in sorted(contents):
        seen.setdefault((int(of_row[row]), contents[row]), row)
    return np.array(sorted(seen.values()), int)


def _statistics(own: OwnSet, levels: np.ndarray) -> store.Statistics:
    """What the networks see of the set: a mean and a std of each channel; None: ImageNet's."""
    if own.normalisation == "imagenet":
        return None
    if not isinstance(own.normalisation, str):
        mean, std = own.normalisation
        return tuple(map(float, mean)), tuple(map(float, std))
    values, total = np.arange(_LEVELS) / 255, levels.sum(1)
    if not total.all():
        raise InputError(f"{own.path} has no train split: `OwnSet.normalisation` cannot be 'measured'")
    measured = levels @ values / total
    spread = np.sqrt((levels * (values - measured[:, None]) ** 2).sum(1) / total)
    if not spread.all():
        raise InputError(
            f"{own.path}: a channel of its train images has one value alone: give `OwnSet.normalisation` by numbers"
        )
    return tuple(measured.tolist()), tuple(spread.tolist())
