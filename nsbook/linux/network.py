"""Network interfaces without a library: netdevice(7) ioctls and one rtnetlink(7) dump, through the C half of socket.

Enough for a container without a network (its loopback) and for looking. Veth, bridges and addresses want pyroute2, which
costs a hundred milliseconds to import: they are elsewhere.
"""

from __future__ import annotations

import _socket
import os
from struct import calcsize, pack, unpack_from
from time import perf_counter

from nsbook.frozen import Frozen
from nsbook.linux import constants
from nsbook.linux.call import failed, note, syscall
from nsbook.trace import current

_RTM_NEWLINK, _RTM_GETLINK, _NLMSG_ERROR, _NLMSG_DONE = 16, 18, 2, 3
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU = 1, 3, 4
_AF_NETLINK, _SOCK_RAW = 16, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 1, 0x300


try:  # now, not when it is needed: a child that has pivoted can't import any more
    import fcntl
except ImportError:  # another system
    pass


class Link(Frozen):
    """One network interface of the caller's network namespace. ``flags`` as netdevice(7) names them, without ``IFF_``."""

    index: int
    name: str
    flags: tuple[str, ...]
    mac: str
    mtu: int = 0


def _flags(value: int) -> tuple[str, ...]:
    return tuple(f.removeprefix("IFF_") for f in constants.flag_names(value, "IFF_").split("|") if f != "0")


def _ioctl(request: int, interface: bytes, value: int) -> int:
    with_flags = pack("16sh14x", interface, value)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)  # dev ioctls work on any socket
    try:
        return int(unpack_from("16xh", fcntl.ioctl(sock.fileno(), request, with_flags))[0]) & 0xFFFF
    finally:
        sock.close()


@syscall("ioctl", interface=lambda v: f'SIOCGIFFLAGS, {{ifr_name="{v}"}}', result=lambda v: constants.flag_names(v, "IFF_"))
def get_link_flags(interface: str) -> int:
    """An interface's flags (netdevice(7), SIOCGIFFLAGS)."""
    return _ioctl(constants.SIOCGIFFLAGS, _name(interface), 0)


@syscall(
    "ioctl",
    interface=lambda v: f'SIOCSIFFLAGS, {{ifr_name="{v}"',
    flags=lambda v: f"ifr_flags={constants.flag_names(v, 'IFF_')}}}",
)
def set_link_flags(interface: str, flags: int) -> None:
    """Set an interface's flags (netdevice(7), SIOCSIFFLAGS). Needs CAP_NET_ADMIN in the network namespace's owner."""
    _ioctl(constants.SIOCSIFFLAGS, _name(interface), flags)


def _name(interface: str) -> bytes:
    raw = os.fsencode(interface)
    if not 0 < len(raw) < 16:
        raise failed(errno=19)  # ENODEV: none can be called so
    return raw


def link_up(name: str) -> None:
    """Take the interface up."""
    set_link_flags(name, get_link_flags(name) | constants.IFF_UP)


def links() -> tuple[Link, ...]:
    """The interfaces of this network namespace, by index: an RTM_GETLINK dump (rtnetlink(7))."""
    transcript = current.get()
    start = perf_counter()
    try:
        rows = _dump()
    except OSError as error:
        if transcript is not None:
            usec = (perf_counter() - start) * 1e6
            transcript.add("netlink", "RTM_GETLINK", "NLM_F_DUMP", "-1", error.errno or 0, usec, os.getpid())
        note(error, "rtnetlink", 7, "RTM_GETLINK dump", {})
        raise
    if transcript is not None:
        usec = (perf_counter() - start) * 1e6
        transcript.add("netlink", "RTM_GETLINK", "NLM_F_DUMP", f"{len(rows)} links", 0, usec, os.getpid())
    return rows


def _dump() -> tuple[Link, ...]:
    sock = _socket.socket(_AF_NETLINK, _SOCK_RAW | _socket.SOCK_CLOEXEC, 0)
    rows: list[Link] = []
    try:
        request = pack("=BxHiII", 0, 0, 0, 0, 0)  # struct ifinfomsg: any family, any link
        sock.send(pack("=IHHII", calcsize("=IHHII") + len(request), _RTM_GETLINK, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + request)
        while True:
            data = sock.recv(1 << 17)
            at = 0
            while at + 16 <= len(data):
                length, kind = unpack_from("=IH", data, at)
                if kind == _NLMSG_DONE:
                    return tuple(sorted(rows, key=lambda row: row.index))
                if kind == _NLMSG_ERROR:
                    raise failed(errno=-unpack_from("=i", data, at + 16)[0])
                if kind == _RTM_NEWLINK:
                    rows.append(_link(data[at + 16 : at + length]))
                at += (length + 3) & ~3
    finally:
        sock.close()


def _link(body: bytes) -> Link:
    index, bits = unpack_from("=4xiI", body)
    name, mac, mtu, at = "", "", 0, 16
    while at + 4 <= len(body):
        length, kind = unpack_from("=HH", body, at)
        value = body[at + 4 : at + length]
        if kind == _IFLA_IFNAME:
            name = os.fsdecode(value.rstrip(b"\0"))
        elif kind == _IFLA_ADDRESS:
            mac = value.hex(":")
        elif kind == _IFLA_MTU:
            mtu = unpack_from("=I", value)[0]
        at += max((length + 3) & ~3, 4)
    return Link(index, name, _flags(bits), mac, mtu)
