"""Links, without a library."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

from needs import requires
from nsbook.linux import network
from nsbook.trace import record

Inside = Callable[..., dict[str, Any]]


@requires("ip")
def test_the_links_are_those_that_ip_shows() -> None:
    shown = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True, text=True).stdout)
    with record() as transcript:
        rows = network.links()
    assert [(r.index, r.name, r.mtu) for r in rows] == [(s["ifindex"], s["ifname"], s["mtu"]) for s in shown]
    for row, line in zip(rows, shown, strict=True):
        assert "UP" not in row.flags or "UP" in line["flags"]
        if line["link_type"] in ("ether", "loopback"):
            assert row.mac == line["address"]
    assert [(c.kind, c.name, c.result) for c in transcript] == [("netlink", "RTM_GETLINK", f"{len(rows)} links")]


@requires("userns")
def test_a_new_network_namespace_has_lo_and_it_comes_up(inside: Inside) -> None:
    out = inside(
        """
        out["before"] = [r.to_dict() for r in network.links() if r.name == "lo"]
        with record() as t:
            network.link_up("lo")
        out["after"] = [r.to_dict() for r in network.links() if r.name == "lo"]
        out["none"] = error_of(lambda: network.link_up("nsbnone"))
        out["long"] = error_of(lambda: network.link_up("x" * 16))
        out["rows"] = [r[1:3] for r in rows(t)]
        """,
        unshare=("--net",),
    )
    assert out["before"][0]["flags"] == ["LOOPBACK"]
    assert {"UP", "RUNNING"} <= set(out["after"][0]["flags"])
    assert out["none"]["errno"] == out["long"]["errno"] == 19
    assert out["rows"] == [
        ["ioctl", 'SIOCGIFFLAGS, {ifr_name="lo"}'],
        ["ioctl", 'SIOCSIFFLAGS, {ifr_name="lo", ifr_flags=IFF_UP|IFF_LOOPBACK}'],
    ]


@requires("net-admin")
def test_many_links(inside: Inside) -> None:
    """More than one datagram's worth, and names that ip can make."""
    out = inside(
        """
        import subprocess
        batch = "".join(f"link add nsb{n} type veth\\n" for n in range(30))
        subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
        out["names"] = [r.name for r in network.links()]
        """,
        unshare=("--net",),
    )
    assert {f"nsb{n}" for n in range(30)} | {"lo"} <= set(out["names"])
