"""Builders on archives of the owners' own layouts, and one clear line for every archive that cannot be used."""

import functools
import http.server
import io
import json
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import official_archives as official
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sample_archives import check_one_line

from jaxdiv.data import store
from jaxdiv.data.archives import members
from jaxdiv.data.prepare import DataSettings, prepare_base_set
from jaxdiv.data.public import builders, in_imagenet
from jaxdiv.data.registry import split_lists
from jaxdiv.errors import InputError

ROOT = Path(__file__).parents[3]
COUNT = {"cifar100": 100, "mini_imagenet": 100, "aircraft": 100, "flower": 102, "dtd": 47, "cu_birds": 200}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Every source but Omniglot, prepared from archives of its official layout with two images a class."""
    folder = tmp_path_factory.mktemp("official")
    with pytest.MonkeyPatch.context() as monkeypatch:
        found = {}
        for name in COUNT:
            official.make(name, folder / "archives", 2, monkeypatch)
            found[name] = builders.prepare(name, folder / "archives", folder / "data")
        yield found


def colours(records):
    """Class -> the colours of its images, by PIL."""
    found = {}
    for record in records:
        with Image.open(io.BytesIO(record["image"])) as image:
            found.setdefault(record["class"].decode(), []).append(np.asarray(image.convert("RGB"))[1, 1].astype(int))
    return found


@pytest.mark.parametrize("name", COUNT)
def test_every_class_and_image_of_an_official_archive_comes_out(whole, name):
    records = whole[name].records
    found = colours(records)
    assert len(found) == COUNT[name] and {len(images) for images in found.values()} == {2}
    assert len({record["file"] for record in records}) == len(records)
    for of_class, images in found.items():
        named = of_class
        if name == "flower":
            named = next(full for full in official.listed("vgg_flower") if int(full[:3]) == int(of_class))
        # JPEG is exact to a few levels on one colour, PNG exactly.
        assert np.abs(np.array(images) - official.colour(named)).max() <= (0 if name == "cifar100" else 4)


def test_records_name_superclasses_and_families(whole):
    groups = {record["class"].decode(): record["group"].decode() for record in whole["cifar100"].records}
    assert groups == official.cifar_classes()
    families = {record["group"].decode() for record in whole["aircraft"].records}
    assert families == set(official.listed("aircraft_family"))


def test_stored_bytes_are_those_of_the_archive_and_tfds_alone_reads_them(whole):
    folder = Path(whole["dtd"].records.dataset_info.data_dir)
    assert list(folder.glob("*.array_record-*")) and json.loads((folder / "dataset_info.json").read_text())
    source = tfds.builder_from_directory(folder).as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    record = next(r for r in source if r["file"].endswith(b"banded_0001.jpg"))
    assert record["image"] == official.encoded("banded") and record["class"] == b"banded"
    # And decoded, as anyone would.
    decoded = tfds.builder_from_directory(folder).as_data_source("train")[0]["image"]
    assert decoded.shape == (8, 8, 3) and decoded.dtype == np.uint8


def test_every_published_archive_has_addresses_a_size_and_a_hash():
    for source in builders.SOURCES.values():
        for archive in source.archives:
            assert archive.size > 0 and (len(archive.sha256) == 64 or len(archive.md5) == 32), archive.name
            for url in (archive.url, *archive.mirrors):
                assert url.startswith("http") and archive.name in url


def test_no_tensorflow_is_there(whole):
    assert "tensorflow" not in sys.modules
    with pytest.raises(ImportError):
        import tensorflow  # noqa: F401


def test_a_prepared_set_is_opened_without_its_archives(whole, monkeypatch, tmp_path):
    data_dir = Path(whole["cu_birds"].records.dataset_info.data_dir).parents[2]
    monkeypatch.setattr(builders.Jaxdiv, "_generate_examples", lambda *_: pytest.fail("made again"))
    again = builders.prepare("cu_birds", None, data_dir)
    assert len(again.records) == 400 and again.archives == whole["cu_birds"].archives


def test_mini_imagenets_pickles_give_the_same_classes_as_its_files(tmp_path, monkeypatch):
    official.make("mini_imagenet", tmp_path, 2, monkeypatch, official.mini_imagenet_pickles)
    found = colours(builders.prepare("mini_imagenet", tmp_path, tmp_path / "data").records)
    assert sorted(found) == sorted(official.listed("mini_imagenet"))
    assert all((np.array(images) == official.colour(name)).all() for name, images in found.items())


# Real images in the official layout


OFFICIAL = {"mini_imagenet": "images/{file}", "flower": "jpg/{file}", "dtd": "dtd/images/{folder}/{file}"}


@pytest.mark.parametrize(
    ("name", "sample", "every"),
    [
        ("mini_imagenet", "miniimagenet_sample.tar", 10),
        ("flower", "flowers_sample.tar", 7),
        ("dtd", "dtd_sample.tar", 6),
    ],
)
def test_real_images_in_the_official_layout_give_the_table_of_the_sample(
    real, tmp_path, monkeypatch, name, sample, every
):
    with tarfile.open(real / sample) as tar:
        images = {m.name: tar.extractfile(m).read() for m in [m for m in tar if m.isfile()][::every]}
    source = builders.SOURCES[name]
    of = lambda path: dict(zip(("folder", "file"), path.split("/")[1:], strict=True))
    files = {OFFICIAL[name].format(**of(path)): data for path, data in images.items()}
    archive = "mini-imagenet.tar.gz" if name == "mini_imagenet" else source.archives[0].name
    paths = [official.write_tar(tmp_path / archive, files)]
    if name == "flower":
        labels = np.zeros((1, 8189), np.uint8)
        for path in images:
            labels[0, int(path[-9:-4]) - 1] = int(of(path)["folder"])
        official.scipy.io.savemat(tmp_path / "imagelabels.mat", {"labels": labels})
        paths.append(tmp_path / "imagelabels.mat")
    monkeypatch.setitem(builders.SOURCES, name, official.with_hashes_of(source, paths))
    (tmp_path / "samples").mkdir()
    official.write_tar(tmp_path / "samples" / sample, images)

    def made(folder, into):
        settings = DataSettings(str(folder), str(tmp_path / "data"), partial=True, min_images=2)
        return prepare_base_set(name, 8, settings, tmp_path / into)

    ours, theirs = made(tmp_path, "official"), made(tmp_path / "samples", "sample")
    assert ours.pop("archives") != theirs.pop("archives")
    assert ours == theirs and ours["train"]["images"] + ours["test"]["images"] >= 100


# Images that are also in ImageNet


def test_cubs_images_that_are_also_in_imagenet_are_left_out_where_asked(tmp_path, monkeypatch):
    """As learn2learn counts them: 35 of train classes, 8 of validation classes."""
    file_of = {name: name.rsplit("_", 2)[0].lower() for name in in_imagenet.CUB}
    of_class = {name[4:].lower(): name for name in official.listed("cu_birds")}
    files = {f"CUB_200_2011/images/{of_class[kind]}/{file}": official.encoded("x") for file, kind in file_of.items()}
    files |= {
        f"CUB_200_2011/images/{name}/{name[4:]}_{i:04}_1.jpg": official.encoded(name)
        for name in of_class.values()
        for i in range(2)
    }
    path = official.write_tar(tmp_path / "CUB_200_2011.tgz", files)
    rehash(monkeypatch, path, "cu_birds")

    def made(**fields):
        settings = DataSettings(str(tmp_path), str(tmp_path / "data"), partial=True, min_images=2, **fields)
        return prepare_base_set("cu_birds", 8, settings, tmp_path / f"table{len(fields)}")

    whole, without = made(), made(without_imagenet=True)
    assert [whole[s]["images"] for s in ("train", "val", "test")] == [280 + 35, 60 + 8, 60]
    assert [without[s]["images"] for s in ("train", "val", "test")] == [280, 60, 60]
    assert {Path(lost).name for (names,) in [without["left_out"].values()] for lost in names} == in_imagenet.CUB
    assert not whole["left_out"]


# Archives that cannot be used


@pytest.fixture
def dtd(tmp_path, monkeypatch):
    """An official archive of DTD with one image a class, and how to prepare it."""
    (path,) = official.make("dtd", tmp_path / "archives", 1, monkeypatch)
    return path, lambda: builders.prepare("dtd", path.parent, tmp_path / "data")


def nothing_prepared(folder):
    return not [path for path in (folder / "data").rglob("*") if "record" in path.name or "incomplete" in str(path)]


def rehash(monkeypatch, path, name="dtd"):
    """The archive as it is now counts as the published one."""
    monkeypatch.setitem(builders.SOURCES, name, official.with_hashes_of(builders.SOURCES[name], [path]))


@pytest.mark.parametrize("kind", ["changed", "longer", "page"])
def test_another_file_in_an_archives_place_names_it_and_where_to_get_the_right_one(dtd, tmp_path, kind):
    path, run = dtd
    expected, whole = builders.sha256_of(path), path.read_bytes()
    path.write_bytes(
        {"changed": bytes([whole[0] ^ 1]) + whole[1:], "longer": whole + b"more", "page": b"<html>" + whole}[kind]
    )
    with pytest.raises(InputError) as error:
        run()
    said = {
        "changed": (expected, builders.sha256_of(path)),
        "longer": (f"is {len(whole) + 4} bytes, not {len(whole)}",),
        "page": ("is a web page",),
    }[kind]
    check_one_line(error, path, *said, builders.SOURCES["dtd"].archives[0].url)
    assert nothing_prepared(tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_a_truncated_archive_leaves_nothing(dtd, tmp_path, monkeypatch, share):
    path, run = dtd
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    rehash(monkeypatch, path)  # so that not the hash tells
    with pytest.raises(InputError) as error:
        run()
    check_one_line(error, path, "truncated")
    assert nothing_prepared(tmp_path)


UNSAFE = {
    "up": ("dtd/images/banded/../../../../evil.jpg", None, "leads out"),
    "root": ("/etc/evil.jpg", None, "leads out"),
    "symbolic link": ("dtd/images/banded/evil.jpg", tarfile.SYMTYPE, "link"),
    "hard link": ("dtd/images/banded/evil.jpg", tarfile.LNKTYPE, "link"),
    "device": ("dtd/images/banded/evil.jpg", tarfile.CHRTYPE, "device"),
}


@pytest.mark.parametrize("kind", UNSAFE)
def test_an_unsafe_tar_is_refused_and_nothing_written_outside(dtd, tmp_path, monkeypatch, kind):
    name, of_type, word = UNSAFE[kind]
    path, run = dtd
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo(name)
        if of_type:
            member.type, member.linkname = of_type, "/etc/passwd"
        tar.addfile(member, io.BytesIO(b""))
    rehash(monkeypatch, path)
    with pytest.raises(InputError) as error:
        run()
    check_one_line(error, path, name, word, "refused")
    assert nothing_prepared(tmp_path) and not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("kind", ["up", "link", "bomb"])
def test_an_unsafe_zip_is_refused(tmp_path, kind):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("a/../../evil.png" if kind == "up" else "a/evil.png")
        if kind == "link":
            entry.external_attr = 0o120777 << 16
        archive.writestr(entry, b"/etc/passwd")
    with pytest.raises(InputError) as error:
        list(members(path, lambda name: True, "a test", most=5 if kind == "bomb" else 100))
    check_one_line(error, path, "evil.png", {"up": "leads out", "link": "is a link", "bomb": "11 bytes"}[kind])


def test_an_archive_that_is_too_large_in_all_is_refused(dtd, monkeypatch):
    path, run = dtd
    monkeypatch.setattr("jaxdiv.data.archives._TOTAL_BYTES", 2000)
    monkeypatch.setattr("jaxdiv.data.archives._EXPANSION", 0)
    with pytest.raises(InputError) as error:
        run()
    check_one_line(error, path, "more than 2000 bytes")


def test_a_missing_file_says_name_size_address_and_folder(tmp_path):
    with pytest.raises(InputError) as error:
        builders.prepare("mini_imagenet", tmp_path, tmp_path / "data", download=False)
    archive = builders.SOURCES["mini_imagenet"].archives[0]
    check_one_line(
        error, tmp_path / archive.name, "is missing", "1145461190", archive.url, f"into {tmp_path}", "; or mini-ima"
    )
    with pytest.raises(InputError) as error:
        builders.prepare("cu_birds", None, tmp_path / "data", download=False)
    archive = builders.SOURCES["cu_birds"].archives[0]
    check_one_line(error, archive.name, archive.size, archive.url, "`DataSettings.archive_dir`", "downloads are off")


def test_an_archive_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(InputError, match=r"`DataSettings.archive_dir` is .*nowhere, which is no folder"):
        builders.prepare("dtd", tmp_path / "nowhere", tmp_path / "data")


@pytest.mark.parametrize("data", [b"", b"no image at all", official.encoded("banded")[:200]])
def test_a_broken_image_is_named(dtd, tmp_path, monkeypatch, data):
    path, _ = dtd
    names = official.listed("dtd")
    files = {f"dtd/images/{name}/{i}.jpg": official.encoded(name) for name in names for i in range(2)}
    files["dtd/images/banded/1.jpg"] = data
    rehash(monkeypatch, official.write_tar(path, files))
    with pytest.raises(InputError) as error:
        prepare_base_set(
            "dtd", 8, DataSettings(str(path.parent), str(tmp_path / "data"), partial=True, min_images=2), tmp_path / "t"
        )
    check_one_line(error, path.name, "dtd/images/banded/1.jpg", "replace or remove it")
    assert not (tmp_path / "t").exists()


def test_labels_of_other_images_are_recognised(tmp_path, monkeypatch):
    official.make("flower", tmp_path, 1, monkeypatch)
    official.scipy.io.savemat(tmp_path / "imagelabels.mat", {"labels": np.ones((1, 50), np.uint8)})
    paths = [tmp_path / "102flowers.tgz", tmp_path / "imagelabels.mat"]
    monkeypatch.setitem(builders.SOURCES, "flower", official.with_hashes_of(builders.SOURCES["flower"], paths))
    with pytest.raises(InputError) as error:
        builders.prepare("flower", tmp_path, tmp_path / "data")
    check_one_line(error, "jpg/image_00051.jpg has no label in imagelabels.mat")


# Downloads


class Handler(http.server.SimpleHTTPRequestHandler):
    asked: list = []  # noqa: RUF012 (what every request of the server asked for)

    def do_GET(self):
        Handler.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """DTD's official archive on a local server, whose address counts as the published one."""
    (path,) = official.make("dtd", tmp_path / "web", 1, monkeypatch)
    handler = functools.partial(Handler, directory=str(path.parent))
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    Handler.asked.clear()
    address(monkeypatch, f"http://127.0.0.1:{running.server_port}/{path.name}")
    yield path
    running.shutdown()
    running.server_close()


def address(monkeypatch, url, **facts):
    source = builders.SOURCES["dtd"]
    (archive,) = source.archives
    monkeypatch.setitem(builders.SOURCES, "dtd", replace(source, archives=(replace(archive, url=url, **facts),)))


def test_a_missing_archive_is_downloaded_once_and_kept(served, tmp_path, monkeypatch):
    said = []
    got = builders.prepare("dtd", None, tmp_path / "data", progress=lambda share, note: said.append(note))
    assert len(got.records) == 47 and got.archives[0]["sha256"] == builders.sha256_of(served)
    assert Handler.asked == ["/dtd-r1.0.1.tar.gz"] and any("downloading 0 of 0 MiB" in note for note in said)
    kept = tmp_path / "data/downloads/dtd/dtd-r1.0.1.tar.gz"
    assert kept.read_bytes() == served.read_bytes()
    # Prepared again, it comes from there; damaged meanwhile, it is downloaded again.
    for asked in (1, 2):
        shutil.rmtree(tmp_path / "data/jaxdiv")
        assert len(builders.prepare("dtd", None, tmp_path / "data").records) == 47 and len(Handler.asked) == asked
        kept.write_bytes(b"damaged")


def test_a_mirror_serves_where_the_owners_do_not(served, tmp_path, monkeypatch):
    url = builders.SOURCES["dtd"].archives[0].url
    address(monkeypatch, f"{url}.gone", mirrors=(url,))
    assert len(builders.prepare("dtd", None, tmp_path / "data").records) == 47
    assert Handler.asked == ["/dtd-r1.0.1.tar.gz.gone", "/dtd-r1.0.1.tar.gz"]


def test_a_download_of_another_hash_is_refused(served, tmp_path, monkeypatch):
    url = builders.SOURCES["dtd"].archives[0].url
    address(monkeypatch, url, sha256="0" * 64)
    with pytest.raises(InputError) as error:
        builders.prepare("dtd", None, tmp_path / "data")
    check_one_line(error, builders.sha256_of(served), "0" * 64, url, "`DataSettings.archive_dir`")
    assert nothing_prepared(tmp_path) and not list((tmp_path / "data/downloads/dtd").iterdir())


def test_no_network_says_what_to_get_from_where(tmp_path, monkeypatch):
    address(monkeypatch, "http://127.0.0.1:9/dtd-r1.0.1.tar.gz", mirrors=("http://127.0.0.1:9/mirror",))
    with pytest.raises(InputError) as error:
        builders.prepare("dtd", None, tmp_path / "data")
    check_one_line(
        error, "dtd-r1.0.1.tar.gz cannot be downloaded", "http://127.0.0.1:9/dtd-r1.0.1.tar.gz cannot be reached"
    )
    check_one_line(
        error, "http://127.0.0.1:9/mirror cannot be reached", "into a folder, for `DataSettings.archive_dir`"
    )
    assert nothing_prepared(tmp_path)


# Interrupted


@pytest.mark.parametrize("limit", [2_000, 30_000], ids=["records", "table"])
def test_a_full_disk_leaves_nothing_that_counts_as_whole(dtd, tmp_path, limit):
    path, _ = dtd
    settings = DataSettings(str(path.parent), str(tmp_path / "data"), partial=True, min_images=1)
    if limit == 30_000:  # records are there already: the table is what no longer fits
        builders.prepare("dtd", path.parent, tmp_path / "data")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # a file that grows beyond it cannot be written
    try:
        with pytest.raises(InputError) as error:
            prepare_base_set("dtd", 32, settings, tmp_path / "table")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    check_one_line(error, "cannot be written", "make room")
    assert not (tmp_path / "table").exists()
    if limit == 2_000:
        assert nothing_prepared(tmp_path)
    facts = prepare_base_set("dtd", 32, settings, tmp_path / "table")
    stored = store.read_table(tmp_path / "table")
    assert len(stored.images) == 47 and facts["train"]["classes"] == len(split_lists()["dtd"]["train"])


PREPARE = """
import json, sys, time
from pathlib import Path
from jaxdiv.data.public import builders
from jaxdiv.data import prepare
from dataclasses import replace
archives, data, table, slow = sys.argv[1:]
source = builders.SOURCES["cu_birds"]
read = source.read
def slowly(paths):
    for number, example in enumerate(read(paths)):
        if slow == "records" and number == 300:
            print("half", flush=True); time.sleep(60)
        yield example
archive = replace(source.archives[0], sha256=builders.sha256_of(Path(archives) / source.archives[0].name), size=0)
builders.SOURCES["cu_birds"] = replace(source, read=slowly, archives=(archive,))
def progress(share, note):
    if slow == "table" and "px" in note:
        print("half", flush=True); time.sleep(60)
settings = prepare.DataSettings(archives, data, partial=True, min_images=2)
print(json.dumps(prepare.prepare_base_set("cu_birds", 8, settings, Path(table), progress)))
"""


def test_killed_in_mid_prepare_and_run_again_it_gives_the_same_facts(tmp_path, monkeypatch):
    (path,) = official.make("cu_birds", tmp_path / "archives", 2, monkeypatch)
    command = [sys.executable, "-c", PREPARE, str(path.parent), str(tmp_path / "data"), str(tmp_path / "table")]
    for where in ("records", "table"):
        process = subprocess.Popen([*command, where], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "table").exists()
        assert bool(list((tmp_path / "data/jaxdiv/cu_birds").glob("1.0.0"))) == (where == "table")
    settings = lambda data: DataSettings(str(path.parent), str(tmp_path / data), partial=True, min_images=2)
    start = time.monotonic()
    resumed = prepare_base_set("cu_birds", 8, settings("data"), tmp_path / "table")
    assert time.monotonic() - start < 20  # the killed process's lock is free
    assert resumed == prepare_base_set("cu_birds", 8, settings("other"), tmp_path / "undisturbed")
    assert resumed["train"] == {"classes": 140, "images": 280}
    unfinished = [p for p in tmp_path.rglob("*") if "incomplete" in p.name or "unfinished" in p.name]
    assert not unfinished


def test_a_cache_that_is_whole_is_used_without_a_lock_or_a_write(whole, monkeypatch):
    """As on a disk that cannot be written."""
    folder = Path(whole["dtd"].records.dataset_info.data_dir).parents[2]
    monkeypatch.setattr(builders, "locked", lambda folder: pytest.fail("a lock was taken"))
    official.make("dtd", folder.parent / "archives", 2, monkeypatch)
    again = builders.prepare("dtd", folder.parent / "archives", folder)
    assert len(again.records) == len(whole["dtd"].records) and again.archives == whole["dtd"].archives


@pytest.mark.parametrize("kind", ["cut", "flipped", "missing"])
def test_a_damaged_cache_is_named_with_what_to_do(whole, tmp_path, monkeypatch, kind):
    folder = Path(whole["dtd"].records.dataset_info.data_dir).parents[2]
    copy = shutil.copytree(folder, tmp_path / "data")
    (file,) = copy.glob("jaxdiv/dtd*/*/*.array_record*")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.unlink() if kind == "missing" else file.write_bytes(data if kind == "flipped" else data[: len(data) // 2])
    official.make("dtd", tmp_path / "archives", 2, monkeypatch)
    with pytest.raises(InputError, match=r"the prepared data set .*dtd.* is damaged \(.*delete this folder"):
        found = builders.prepare("dtd", tmp_path / "archives", copy)
        found.at(range(len(found.records)))
