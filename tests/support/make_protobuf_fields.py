"""Makes cluster/apiserver/protobuf_fields.json from Go checkouts of Kubernetes' k8s.io repositories.

    python make_protobuf_fields.py API_GIT_DIR APIMACHINERY_GIT_DIR APIEXTENSIONS_GIT_DIR AGGREGATOR_GIT_DIR OUT

Only facts are taken: of each struct the protobuf field numbers, JSON names and types that its tags state. Run again
when Kubernetes adds fields; numbers never change.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "admissionregistration/v1",
    "apps/v1",
    "authentication/v1",
    "authorization/v1",
    "autoscaling/v1",
    "autoscaling/v2",
    "batch/v1",
    "certificates/v1",
    "coordination/v1",
    "core/v1",
    "discovery/v1",
    "events/v1",
    "flowcontrol/v1",
    "networking/v1",
    "node/v1",
    "policy/v1",
    "rbac/v1",
    "resource/v1",
    "scheduling/v1",
    "storage/v1",
)
SPECIAL = {
    "metav1.Time": "t",
    "metav1.MicroTime": "u",
    "metav1.Duration": "d",
    "metav1.FieldsV1": "r",
    "resource.Quantity": "q",
    "intstr.IntOrString": "o",
    "runtime.RawExtension": "r",
    "JSON": "r",
    "JSONSchemaPropsOrArray": "a",
    "JSONSchemaPropsOrBool": "p",
    "JSONSchemaPropsOrStringArray": "e",
    "types.UID": "s",
    "types.NodeName": "s",
    "string": "s",
    "bool": "b",
    "int": "i",
    "int32": "i",
    "int64": "i",
    "uint32": "i",
    "float64": "f",
    "[]byte": "y",
}
STRUCT = re.compile(r"^type (\w+) struct \{$(.*?)^\}$", re.M | re.S)
NAMED = re.compile(r"^type (\w+) ([\w.\[\]]+)$", re.M)
FIELD = re.compile(r"^\s+(?:(\w+)\s+)?([\w.\*\[\]]+)\s+`([^`]*)`", re.M)
EMPTY = re.compile(r"^type (\w+) struct ?\{\}$", re.M)
IMPORT = re.compile(r'^\s*(?:import\s+)?(\w+)?\s*"(k8s\.io/[\w./]+)"', re.M)


def show(repo: str, path: str) -> str:
    return subprocess.run(
        ["git", "-C", repo, "show", f"HEAD:{path}"], check=True, capture_output=True, text=True
    ).stdout


class Package:
    """One Go package: its structs, its named types, its imports."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.structs = {**dict(STRUCT.findall(source)), **dict.fromkeys(EMPTY.findall(source), "")}
        self.named = {n: t for n, t in NAMED.findall(source) if t != "struct"}
        self.aliases: dict[str, str] = {}
        for alias, path in IMPORT.findall(source):
            if path == "k8s.io/apimachinery/pkg/apis/meta/v1":
                self.aliases[alias or "v1"] = "meta.v1"
            elif path.startswith("k8s.io/api/"):
                parts = path.split("/")
                self.aliases[alias or parts[-1]] = ".".join(parts[2:])


class Table:
    def __init__(self, packages: dict[str, Package]) -> None:
        self.packages = packages
        self.messages: dict[str, dict[str, list[str]]] = {}

    def type_of(self, package: Package, go: str) -> str:
        if go in SPECIAL:
            return SPECIAL[go]
        if go.startswith("*"):
            return "*" + self.type_of(package, go[1:])
        if go.startswith("[]"):
            return "[" + self.type_of(package, go[2:])
        found = re.fullmatch(r"map\[[\w.]+\](.+)", go)
        if found:
            return "{" + self.type_of(package, found.group(1))
        owner, _, name = go.rpartition(".")
        target = self.packages[package.aliases[owner]] if owner else package
        if target.name == "meta.v1" and f"metav1.{name}" in SPECIAL:
            return SPECIAL[f"metav1.{name}"]
        if name in target.structs:
            self.message(target, name)
            return f"@{target.name}.{name}"
        if name == "ExtraValue":
            return "x"
        return self.type_of(target, target.named[name])

    def message(self, package: Package, name: str) -> None:
        full = f"{package.name}.{name}"
        if full in self.messages:
            return
        fields = self.messages[full] = {}
        for _, go, tags in FIELD.findall(package.structs[name]):
            proto = re.search(r'protobuf:"\w+,(\d+),', tags)
            tag = re.search(r'json:"([^",]*)(,[^"]*)?"', tags)
            if proto is None or tag is None:
                continue
            options = tag.group(2) or ""
            try:
                kind = self.type_of(package, go)
            except KeyError as e:
                print(f"{full}: field {tag.group(1)} left out, its type is in {e}")
                continue
            if not tag.group(1):
                kind = "^" + kind.removeprefix("*")
            elif "omitempty" not in options and "omitzero" not in options:
                kind = "!" + kind
            fields[proto.group(1)] = [tag.group(1), kind]


def main() -> None:
    api, machinery, extensions, aggregator, out = sys.argv[1:]
    packages = {"meta.v1": Package("meta.v1", show(machinery, "pkg/apis/meta/v1/types.go"))}
    for path in PACKAGES:
        name = path.replace("/", ".")
        packages[name] = Package(name, show(api, f"{path}/types.go"))
    kinds = "pkg/apis/apiextensions/v1"
    source = show(extensions, f"{kinds}/types.go") + show(extensions, f"{kinds}/types_jsonschema.go")
    packages["apiextensions.v1"] = Package("apiextensions.v1", source)
    services = show(aggregator, "pkg/apis/apiregistration/v1/types.go")
    packages["apiregistration.v1"] = Package("apiregistration.v1", services)
    table = Table(packages)
    for package in packages.values():
        for struct in package.structs:
            if struct in SPECIAL:
                continue
            if package.name != "meta.v1" or struct in ("DeleteOptions", "ObjectMeta", "ListMeta"):
                table.message(package, struct)
    Path(out).write_text(json.dumps(table.messages, separators=(",", ":"), sort_keys=True) + "\n")
    print(len(table.messages), "messages")


if __name__ == "__main__":
    main()
