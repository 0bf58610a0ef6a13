"""The kernel floor: Linux as its man pages describe it, in Python. The only place with :mod:`ctypes`.

What is here, and where it is written down:

* **Wrappers** that bear the system call's own name and its arguments in the man page's order: :mod:`.mount`
  (mount(2), umount2(2), pivot_root(2), mount_setattr(2) and the calls around fsopen), :mod:`.process` (clone(2),
  unshare(2), setns(2), pidfd_open(2), waitid(2), prctl(2) ...), :mod:`.credentials` (capget(2), capabilities(7)),
  :mod:`.seccomp` (seccomp(2)), :mod:`.files` (openat2(2), and overlayfs' whiteouts as they lie on disk),
  :mod:`.network` (netdevice(7), rtnetlink(7)). Their numbers are in :mod:`.numbers`, their flags in :mod:`.constants`.
* **Readers** that return frozen rows: :mod:`.mountinfo` (proc(5)), :mod:`.status`, :mod:`.cgroups` (cgroups(7)),
  :mod:`.idmaps` (user_namespaces(7), subuid(5)), :mod:`.nsfs` (ioctl_ns(2)), :mod:`.host`.
* **The diagnoser**: :mod:`.facts` gathers, in the process that failed, what may explain a refusal; :mod:`.diagnose`
  judges it elsewhere, where there is a /proc and time: which rule of the man page was broken, who refused, and what helps.

A wrapper raises plain :class:`OSError` (so ``FileNotFoundError`` stays what it is) with a note that shows the call. When
someone records (:mod:`nsbook.trace`) it leaves a row; :mod:`.call` is the one place where that is done.

Above the ground (frozen, trace), below everything else: nothing of nsbook but the ground is imported here. Nothing is
imported when the package is: the launcher and the OCI runtime take single modules, without dataclasses, enum or re.
"""
