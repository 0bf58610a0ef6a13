"""What runs in the guest, as its first process: one Python, started by the kernel from the file system that it shares.

:mod:`.start` makes the file tree, :mod:`.agent` then answers the host until the line goes dead. A system call costs tens of
microseconds in User Mode Linux and an import tens of milliseconds, so only what is needed is imported, and nothing of
:mod:`re`, :mod:`json`, :mod:`subprocess` or :mod:`socket`.

These modules fork: they are the whole of user space on a machine of their own, not part of the caller's process.
"""
