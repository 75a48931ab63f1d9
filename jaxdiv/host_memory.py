"""The C library's memory settings, which on a CPU decide a good part of the speed."""

import ctypes
import platform

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, instead of giving it back to the system; whether it could.

    XLA's CPU back end allocates all temporary buffers of a program in one piece at each call. glibc gets a piece above
    32 MB from the system every time, and each of its pages costs a fault, 1 to 2 µs on a virtual machine: a quarter of
    a conv-4 MAML step's time, and nine tenths of sampling a task at 84 px. Kept, the pages are there already. The
    process then holds what it once needed until it ends. Only with glibc (Linux); best before the first computation.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    # No piece straight from the system; one heap, since the threads' own hold 64 MB at most; and no giving back.
    options = ((_MMAP_MAX, 0), (_ARENA_MAX, 1), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20))
    taken = [set_option(option, value) == 1 for option, value in options]
    return all(taken)
