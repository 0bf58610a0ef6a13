"""The runtime configuration: it validates against the specification's schema, and the plan follows from it alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

from needs import requires
from nsbook.container.compile import Ground, compile_spec
from nsbook.container.container import Container
from nsbook.errors import InvalidSpec, Unsupported

SCHEMAS = Path(__file__).parents[1] / "specs/oci-runtime"

OPTIONS: list[dict[str, Any]] = [
    {},
    {"memory": "64M", "cpus": 1.5, "pids": 10, "oom_score": 10},
    {"read_only": True, "tmpfs": {"/x": "size=1m"}, "binds": ["/usr:/u:ro", "/tmp:/t:rslave"]},
    {"user": "1000:1000", "capabilities": ["CHOWN"], "rlimits": {"nofile": (10, 20)}, "env": {"A": "b"}, "workdir": "/w"},
    {"network": "host", "hostname": "x", "time": True, "init": True, "no_new_privileges": False},
    {"seccomp": "unconfined", "cgroup": False, "sysctls": {"net.ipv4.ip_forward": "1"}},
    {"userns": True},
]


def validator() -> Draft4Validator:
    found = [(path.name, Resource(contents=json.loads(path.read_text()), specification=DRAFT4)) for path in SCHEMAS.glob("*.json")]
    schema = json.loads((SCHEMAS / "config-schema.json").read_text())
    schema["id"] = "config-schema.json"
    return Draft4Validator(schema, registry=Registry().with_resources(found))


@requires("userns", "limits", "root")
@pytest.mark.parametrize("given", OPTIONS, ids=lambda given: "-".join(given) or "default")
def test_the_configuration_validates(given: dict[str, Any]) -> None:
    config = Container("base", ["sh", "-c", "true"], **given).config
    validator().validate(config)
    assert json.loads(json.dumps(config)) == config


def test_the_schema_says_no_to_nonsense() -> None:
    """Otherwise the test above would prove nothing."""
    config = Container("base", ["true"]).config
    for path, value in (("process", {"args": "true", "cwd": "/"}), ("mounts", [{"type": "proc"}]), ("ociVersion", 1)):
        assert list(validator().iter_errors({**config, path: value})), path


def ground(**more: Any) -> Ground:
    return Ground("0123456789ab", "/root/merged", **more)


def config(**more: Any) -> dict[str, Any]:
    return {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"args": ["true"], "cwd": "/", "env": []},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
        **more,
    }


def test_the_smallest_configuration() -> None:
    plan = compile_spec(config(), ground())
    assert [op.name for op in plan.ops if op.where == "host"] == ["Clone"]
    assert [op.name for op in plan.ops][-1] == "Exec"
    assert plan.find("Clone").namespaces == ("pid",)  # type: ignore[attr-defined]


def test_every_mount_is_an_op_in_the_same_order() -> None:
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "strictatime"]},
        {"destination": "/a/../b", "type": "bind", "source": "/usr", "options": ["bind", "ro", "rslave", "nodev"]},
        {"destination": "/c", "type": "none", "source": "/usr", "options": ["rbind", "rro"]},
    ]
    plan = compile_spec(config(mounts=mounts), ground())
    made = [op for op in plan.ops if op.name in ("Mount", "BindMount")]
    assert [op.target for op in made] == ["/", "/proc", "/dev", "/b", "/c"]  # type: ignore[attr-defined]
    assert made[2].flags == ("nosuid", "strictatime")  # type: ignore[attr-defined]
    assert made[2].data == "mode=755"  # type: ignore[attr-defined]
    assert made[3].to_dict() | {"flags": ["ro", "nodev"], "propagation": "rslave", "recursive": False} == made[3].to_dict()
    assert made[4].to_dict() | {"flags": ["rro"], "recursive": True} == made[4].to_dict()
    assert [op.name for op in plan.ops].index("MakeDevice") > [op.name for op in plan.ops].index("Mount")


@pytest.mark.parametrize(
    "wrong, word",
    [
        ({"process": {"args": []}}, "nothing to run"),
        ({"process": {}}, "args"),
        ({"linux": {"namespaces": [{"type": "mount"}, {"type": "soul"}]}}, "soul"),
        ({"linux": {"namespaces": [{"type": "mount"}, {"type": "mount"}]}}, "twice"),
        ({"linux": {"namespaces": [{"type": "mount"}, {"type": "user"}]}}, "uidMappings"),
        ({"mounts": [{"destination": "/x", "type": "bind"}]}, "no source"),
        ({"mounts": [{"destination": "/x", "type": "bind", "source": "/no/such"}]}, "/no/such"),
        ({"mounts": [{"destination": "/x", "type": "bind", "source": "/usr", "options": ["size=1"]}]}, "size=1"),
        ({"process": {"args": ["true"], "capabilities": {"bounding": ["CAP_FLY"]}}}, "CAP_FLY"),
        ({"process": {"args": ["true"], "rlimits": [{"type": "RLIMIT_FILES", "soft": 1, "hard": 1}]}}, "RLIMIT_FILES"),
    ],
)
def test_what_is_wrong_is_refused_by_name(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidSpec, match=word):
        compile_spec(config(**wrong), ground())


def test_without_a_mount_namespace_nothing_is_built() -> None:
    with pytest.raises(Unsupported, match="mount namespace"):
        compile_spec(config(linux={"namespaces": [{"type": "pid"}]}), ground())
