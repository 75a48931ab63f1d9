"""Metrics are a log: nothing waits for it, nothing depends on it."""

import errno
import threading

import jax.numpy as jnp
import pytest
from tensorboardX import event_file_writer

from jaxdiv.errors import Damage
from jaxdiv.methods.metrics import Log, read_lines


def logged(folder, steps, begin=0):
    with Log(folder, lambda: None, lambda step, metrics: None) as log:
        log.begin(begin)
        for step in range(begin + 1, steps + 1):
            log.add(step, {"loss": jnp.float32(step), "accuracy": jnp.float32(0.5)})
        log.fetch()
        return log.last()


def test_a_disk_that_fills_up_costs_the_log_and_neither_blocks_nor_ends_training(tmp_path, monkeypatch):
    def full(self, event):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(event_file_writer.EventsWriter, "write_event", full)
    before = threading.active_count()
    with pytest.warns(Damage, match="No space left on device.*goes on without"):
        assert logged(tmp_path, 300) == {"step": 300, "loss": 300.0, "accuracy": 0.5}
    assert threading.active_count() == before  # no thread whose death would be waited for


@pytest.mark.parametrize("end", [b'{"step": 5, "lo', b"\0" * 40, b"[]\n\xff\n", b""])
def test_damaged_lines_are_left_out_and_the_whole_ones_kept(tmp_path, end):
    logged(tmp_path, 4)
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(file.read_bytes() + end)
    assert [line["step"] for line in read_lines(file)] == [1, 2, 3, 4]
    logged(tmp_path, 6, begin=3)
    assert [line["step"] for line in read_lines(file)] == [1, 2, 3, 4, 5, 6]


def test_tensorboard_reads_every_scalar_of_a_run_that_was_resumed(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    logged(tmp_path, 4)
    logged(tmp_path, 6, begin=3)
    found = []
    for file in sorted((tmp_path / "tensorboard").iterdir(), key=lambda file: file.name.rpartition(".")[2]):
        data = file.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            data = data[16 + size :]
    losses = [(step, value) for step, tag, value in found if tag == "train/loss"]
    assert losses == [(step, float(step)) for step in (1, 2, 3, 4, 4, 5, 6)]
