"""Asks the kernel: installs filters in children and reports what each call got.

Standard input: JSON, ``{"filters": [{"program": base64, "calls": [[nr, arg0, ... arg5], ...]}, ...]}``. Output: JSON, a list a
filter: the errno of each call (0: it went through), or a string saying how the child ended.

Only calls whose sixth argument is MAGIC reach the program; it is put behind a prologue that lets everything else through,
so the child can live on. Programs are expected to answer every such call with an errno: nothing is ever carried out.
"""

import base64
import ctypes
import json
import os
import struct
import sys

MAGIC = 0x5EC0


def prologue(program):
    # ld [56] (args[5], lower word on a little-endian machine); jeq #MAGIC, 1, 0; ret ALLOW; ld #0 (as a program finds it)
    guard = [(0x20, 0, 0, 56), (0x15, 1, 0, MAGIC), (0x06, 0, 0, 0x7FFF0000), (0x00, 0, 0, 0)]
    return b"".join(struct.pack("=HBBI", *line) for line in guard) + program


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def ask(program, calls):
    libc = ctypes.CDLL(None, use_errno=True)
    syscall = libc.syscall
    syscall.restype = ctypes.c_long
    got = [0] * len(calls)
    ready = [[ctypes.c_long(nr if nr < 1 << 63 else nr - (1 << 64)), *map(ctypes.c_uint64, args)] for nr, *args in calls]
    if libc.prctl(38, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        return "no_new_privs refused"
    what = Program(len(program) // 8, program)
    if libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(what), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        return f"filter refused: {os.strerror(ctypes.get_errno())}"
    for i, call in enumerate(ready):
        ctypes.set_errno(0)
        if syscall(*call) == -1:
            got[i] = ctypes.get_errno()
    return got


def apart(program, calls):
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(here)
            with os.fdopen(there, "w") as out:
                json.dump(ask(program, calls), out)
        finally:
            os._exit(0)
    os.close(there)
    with os.fdopen(here) as file:
        text = file.read()
    _, status = os.waitpid(pid, 0)
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else json.loads(text)


if __name__ == "__main__":
    work = json.load(sys.stdin)
    answers = []
    for one in work["filters"]:
        code = base64.b64decode(one["program"])
        answers.append(apart(prologue(code) if one.get("guarded", True) else code, one["calls"]))
    json.dump(answers, sys.stdout)
