"""A lease has one holder: a dead one loses it, a living one keeps it, on this machine and seen from another."""

import dataclasses
import errno
import os
import re
import subprocess
import sys
import threading
import time

import pytest

from jaxdiv.errors import InputError
from jaxdiv.study import lease


@pytest.fixture
def file(tmp_path):
    return tmp_path / "running" / "driver.json"


@pytest.fixture
def quick(monkeypatch):
    """Signs of life ten times a second, and death after six tenths of one."""
    monkeypatch.setattr(lease, "BEAT", 0.1)
    monkeypatch.setattr(lease, "SILENCE", 0.6)
    sleep = time.sleep
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: sleep(min(seconds, 0.05)))


def left_behind(file, **changed):
    """A lease file that its holder, this process unless `changed`, did not give back."""
    with lease.take(file, "the study"):
        there = dataclasses.replace(lease.holder(file), **changed)
    lease._File(file).write(lease._text(there), new=False)
    return there


def test_the_second_to_come_is_told_who_has_it_since_when_and_can_come_later(file):
    with lease.take(file, "the study"):
        second = lease.take(file, "the study")
        assert isinstance(second, lease.Holder) and second.process == os.getpid()
        assert f"process {os.getpid()}" in str(second) and time.strftime("%Y-%m-%d %H:") in str(second)
    assert lease.working(file) is None and not file.exists()
    with lease.take(file, "the study") as third:
        assert isinstance(third, lease.Lease)


ONE_OF_TWO = """
import sys
from pathlib import Path
from jaxdiv.study import lease
print("ready", flush=True)
sys.stdin.readline()
found = lease.take(Path(sys.argv[1]), "the study")
print(type(found).__name__, flush=True)
sys.stdin.readline()
if isinstance(found, lease.Lease) and sys.argv[2] == "gives it back":
    found.release()
"""


def test_of_twenty_pairs_of_processes_that_come_together_one_has_it_and_one_is_told(file):
    """After every other pair the lease that both find is that of a dead process."""
    for number in range(20):
        asked = [sys.executable, "-c", ONE_OF_TWO, str(file), "gives it back" if number % 2 else "dies with it"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        both = [subprocess.Popen(asked, **pipes) for _ in range(2)]
        assert [each.stdout.readline() for each in both] == ["ready\n"] * 2
        for each in both:
            each.stdin.write("go\n")
            each.stdin.flush()
        assert sorted(each.stdout.readline() for each in both) == ["Holder\n", "Lease\n"]
        for each in both:
            each.communicate("end\n")


def test_the_lease_of_a_dead_process_is_free_at_once_even_if_its_id_is_used_again(file):
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    left_behind(file, process=done.pid)
    with lease.take(file, "the study") as mine:
        assert isinstance(mine, lease.Lease)
    left_behind(file, started="1")  # another process had this one's id
    assert lease.working(file) is None
    with lease.take(file, "the study") as mine:
        assert isinstance(mine, lease.Lease)


def test_a_killed_child_that_nobody_waited_for_is_dead(file):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    there = left_behind(file, process=child.pid, started=lease._start(child.pid))
    assert there.alive
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert there.alive is False
    child.wait()


def test_another_machines_holder_is_alive_while_it_gives_signs_and_dead_when_it_is_silent(file, quick):
    there = left_behind(file, machine="elsewhere")
    assert there.alive is None and lease.working(file) == there
    told, over = [], threading.Event()

    def live():
        beat = there
        while not over.wait(0.1):
            beat = dataclasses.replace(beat, beat=beat.beat + 1)
            lease._File(file).write(lease._text(beat), new=False)
            os.utime(file, (time.time() - 3600, time.time() - 3600))  # a clock that is an hour off

    thread = threading.Thread(target=live)
    thread.start()
    found = lease.take(file, "the study", told=told.append)
    over.set()
    thread.join()
    assert isinstance(found, lease.Holder) and [each.token for each in told] == [there.token]
    began = time.monotonic()
    with lease.take(file, "the study") as mine:
        assert isinstance(mine, lease.Lease) and time.monotonic() - began > 0.6


def test_who_was_silent_too_long_and_lost_it_does_not_go_on_and_leaves_the_other_alone(file, quick):
    mine = lease.take(file, "train/a")
    mine.say(0.5, "step 5")
    other = dataclasses.replace(lease.holder(file), token="another")
    lease._File(file).write(lease._text(other), new=False)
    mine._thread.join()
    with pytest.raises(InputError, match=r"train/a: this process was silent .* another one took its work over"):
        mine.say(0.6)
    mine.release()
    assert lease.holder(file) == other


def test_others_see_how_far_it_is(file, quick):
    with lease.take(file, "train/a") as mine:
        mine.say(0.5, "step 5")
        began = time.monotonic()
        while lease.holder(file).share != 0.5 and time.monotonic() < began + 5:
            time.sleep(0.02)
        assert (lease.holder(file).share, lease.holder(file).note) == (0.5, "step 5")


def test_who_waits_gets_it_when_it_is_given_back(file, quick):
    first = lease.take(file, "train/a")
    threading.Timer(0.3, first.release).start()
    with lease.take(file, "train/a", wait=True) as second:
        assert isinstance(second, lease.Lease)


def test_a_lookout_gives_up_another_machine_that_fell_silent_and_no_other(file, monkeypatch):
    lookout, now = lease.Lookout(), [0.0]
    mine = lease.take(file, "train/a")
    monkeypatch.setattr(lease.time, "monotonic", lambda: now[0])
    assert lookout.working(file).process == os.getpid()
    now[0] += 2 * lease.SILENCE
    assert lookout.working(file)  # a process of this machine is alive as long as it lives
    there = dataclasses.replace(lease.holder(file), machine="elsewhere", token="another")
    mine.release()
    lease._File(file).write(lease._text(there), new=False)
    for beat in (0, 1):  # a sign of life counts from when it was seen
        lease._File(file).write(lease._text(dataclasses.replace(there, beat=beat)), new=False)
        assert lookout.working(file)
        now[0] += lease.SILENCE - 1
        assert lookout.working(file)
    now[0] += 2
    assert lookout.working(file) is None


def test_a_damaged_lease_is_nobodys(file):
    file.parent.mkdir()
    for text in ("", "null", "[1]", '{"host": "a"}', "\x00\x00"):
        file.write_text(text)
        assert lease.holder(file) is None
        with lease.take(file, "the study") as mine:
            assert isinstance(mine, lease.Lease)


def test_a_lease_that_cannot_be_read_for_a_moment_is_not_lost_and_not_free(file, quick, monkeypatch):
    """The disk of a network gives such errors: ESTALE, EIO."""
    mine = lease.take(file, "train/a")
    with monkeypatch.context() as stale:
        error = OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        stale.setattr(lease._File, "read", lambda place: (_ for _ in ()).throw(error))
        threading.Event().wait(0.3)
        with pytest.raises(InputError, match=f"{re.escape(str(file.parent.parent))} cannot be written .Stale"):
            lease.take(file, "train/a")
        assert lease.holder(file) is None
    mine.say(0.5)
    assert isinstance(lease.take(file, "train/a"), lease.Holder)
    mine.release()
    assert not file.exists()
