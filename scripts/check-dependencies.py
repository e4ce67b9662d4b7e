#!/usr/bin/env python3
"""Checks Cargo's dependency graph against deny.toml, for machines without cargo-deny.

Licences are SPDX expressions of AND, OR, WITH and parentheses; duplicates and sources are looked
for among what is linked or run for x86_64 Linux.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

KNOWN = {
    "graph": {"targets"},
    "licenses": {"allow"},
    "bans": {"multiple-versions", "wildcards", "allow-wildcard-paths", "skip"},
    "sources": {"unknown-registry", "unknown-git", "allow-registry"},
}


def allowed(expression: str, allow: set[str]) -> bool:
    """Whether an SPDX expression can be satisfied with allowed licences."""
    # Old manifests write MIT/Apache-2.0 for MIT OR Apache-2.0.
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    at = 0

    def take() -> str:
        nonlocal at
        token = tokens[at] if at < len(tokens) else ""
        at += 1
        return token

    def term() -> bool:
        nonlocal at
        token = take()
        if token == "(":
            value = either()
            if take() != ")":
                raise ValueError("unbalanced parentheses")
            return value
        if at < len(tokens) and tokens[at] == "WITH":
            at += 1
            token = f"{token} WITH {take()}"
        return token in allow

    def both() -> bool:
        nonlocal at
        value = term()
        while at < len(tokens) and tokens[at] == "AND":
            at += 1
            value = term() and value
        return value

    def either() -> bool:
        nonlocal at
        value = both()
        while at < len(tokens) and tokens[at] == "OR":
            at += 1
            value = both() or value
        return value

    value = either()
    if at != len(tokens):
        raise ValueError("not an SPDX expression")
    return value


def linked(metadata: dict) -> set[str]:
    """The packages that the workspace reaches, for building or running it."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    seen: set[str] = set()
    todo = list(metadata["workspace_members"])
    while todo:
        package = todo.pop()
        if package not in seen:
            seen.add(package)
            todo.extend(dependency["pkg"] for dependency in nodes[package]["deps"])
    return seen


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    policy = tomllib.loads((root / "deny.toml").read_text())
    problems = []
    for section, table in policy.items():
        for key in set(table) - KNOWN.get(section, set()):
            problems.append(f"deny.toml: {section}.{key} is not understood by this script")

    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    for target in policy["graph"]["targets"]:
        command += ["--filter-platform", target]
    metadata = json.loads(subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE).stdout)
    reached = linked(metadata)
    packages = [package for package in metadata["packages"] if package["id"] in reached]

    allow = set(policy["licenses"]["allow"])
    registries = {f"registry+{url}" for url in policy["sources"]["allow-registry"]}
    versions = defaultdict(set)
    for package in packages:
        name = f"{package['name']} {package['version']}"
        versions[package["name"]].add(package["version"])
        try:
            if not allowed(package["license"] or "", allow):
                problems.append(f"{name}: licence {package['license']!r} is not on deny.toml's list")
        except ValueError as error:
            problems.append(f"{name}: licence {package['license']!r}: {error}")
        if package["source"] is not None and package["source"] not in registries:
            problems.append(f"{name}: comes from {package['source']}")
        if package["source"] is None:
            for dependency in package["dependencies"]:
                if dependency["req"] == "*" and dependency.get("path") is None:
                    problems.append(f"{name}: depends on {dependency['name']} without a version")

    skipped = {skip["crate"] for skip in policy["bans"]["skip"]}
    for name, found in sorted(versions.items()):
        extra = sorted(version for version in found if f"{name}@{version}" not in skipped)
        if len(extra) > 1:
            problems.append(f"{name}: several versions are linked: {', '.join(extra)}")

    for problem in problems:
        print(f"check-dependencies: {problem}", file=sys.stderr)
    if not problems:
        print(f"check-dependencies: {len(packages)} packages are fine")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
