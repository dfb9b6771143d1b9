"""Makes small changes to our modules, one at a time, and counts how many of them the tests notice: ``make mutate``.

``targets.json`` names the modules and, for each, the test files that are to notice. cosmic-ray knows the changes; they
are made in a copy of the checkout. A change whose tests pass has survived: a test is missing, or it is equivalent.
What was tried is written down, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
TARGETS = Path(__file__).with_name("targets.json")
BUILT = (".", "build", "install", "log", "demo_output", "soak_output")  # not copied
MEMORY = 12 << 30  # bytes; a change may ask for any amount
LEAST_TIME, TIMES_AS_LONG = 60.0, 5  # s, and of what the unchanged module takes: then a change hangs
# An operator is replaced by one of its kind only: of the others, most just raise a TypeError.
KINDS = tuple(
    set(kind.split())
    for kind in (
        "Add Sub Mul Div FloorDiv Mod Pow", "BitAnd BitOr BitXor LShift RShift", "Eq NotEq Lt LtE Gt GtE", "Is IsNot",
        "UAdd USub", "Delete USub", "Delete Not", "Delete Invert",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A module with one change."""

    module: str
    line: int
    change: str
    source: str


def sites(root: Path, module: str) -> Iterator[list[tuple[str, int]]]:
    """For each place of a module that can be changed, the changes: cosmic-ray's operator, and which of its places."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    tree = get_ast((root / module).read_text(encoding="utf-8"))
    found: dict[Any, list[tuple[str, int]]] = {}
    for name in operator_names():
        operator = get_operator(name)
        words = set(name.split("_")[1:])
        if operator.arguments() or name == "core/RemoveDecorator" or not any(words <= kind for kind in KINDS):
            continue
        places = ((node, place) for node in ast_nodes(tree) for place in operator().mutation_positions(node))
        for occurrence, (node, (start, end, *_)) in enumerate(places):
            if not _is_unseen(node, is_number=name == "core/NumberReplacer"):
                found.setdefault((start, end), []).append((name, occurrence))
    return (found[place] for place in sorted(found))


def _is_unseen(node: Any, is_number: bool) -> bool:
    """Whether no behaviour shows a change: of annotations, of options of decorators, of tuned constants."""
    inside = []
    while parent := node.parent:
        inside.append(parent.type)
        place = {"tfpdef": -1, "annassign": 1}.get(parent.type)
        is_result = parent.type == "funcdef" and node.get_previous_sibling() == "->"
        if is_result or (place and node is parent.children[place]):
            return True
        node = parent
    return "decorator" in inside or (is_number and "funcdef" not in inside)


def mutant(root: Path, module: str, name: str, occurrence: int) -> Mutant:
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = (root / module).read_text(encoding="utf-8")
    changed = mutate_code(source, get_operator(name)(), occurrence)
    pairs = zip(source.splitlines(), changed.splitlines(), strict=False)
    line, old, new = next((i, old, new) for i, (old, new) in enumerate(pairs, 1) if old != new)
    return Mutant(module, line, f"{old.strip()}  ->  {new.strip()}", changed)


class Workshop:
    """A copy of the checkout in which modules are changed, and what came of the changes.

    Args:
        root: the checkout.
        folder: an empty folder for the copy.
        results: file of what was tried, one JSON object a line; it is continued.
        python: the interpreter that runs the tests.
    """

    def __init__(self, root: Path, folder: Path, results: Path, python: str) -> None:
        self.folder, self.results, self.python = folder, results, python
        for path in root.iterdir():
            if path.is_dir() and not path.name.startswith(BUILT):
                shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
            elif path.is_file():
                shutil.copy(path, folder)
        results.parent.mkdir(parents=True, exist_ok=True)
        lines = results.read_text(encoding="utf-8").splitlines() if results.is_file() else []
        self.known = {entry["key"]: entry for entry in map(json.loads, lines)}

    def is_caught(self, changed: Mutant, tests: Sequence[str]) -> bool:
        """Whether these tests fail, or hang, with the changed module.

        Raises:
            SystemExit: they fail without the change.
        """
        source = (self.folder / changed.module).read_text(encoding="utf-8")
        plain = self._tried(Mutant(changed.module, 0, "unchanged", source), tests, 3600.0)
        return bool(self._tried(changed, tests, max(LEAST_TIME, TIMES_AS_LONG * plain["seconds"]))["caught"])

    def _tried(self, changed: Mutant, tests: Sequence[str], limit: float) -> dict[str, Any]:
        texts = [changed.module, changed.source, *((self.folder / test).read_text(encoding="utf-8") for test in tests)]
        key = hashlib.sha256("\0".join(texts).encode()).hexdigest()
        if key not in self.known:
            entry = {"key": key, "module": changed.module, "line": changed.line, "change": changed.change}
            self.known[key] = entry | self._run(changed, tests, limit)
            if self.known[key]["caught"] and not changed.line:
                raise SystemExit(f"the tests of {changed.module} fail without a change: {' '.join(tests)}")
            with self.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self.known[key]) + "\n")
        return self.known[key]

    def _run(self, changed: Mutant, tests: Sequence[str], limit: float) -> dict[str, Any]:
        file = self.folder / changed.module
        original = file.read_bytes()
        env = os.environ | {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [self.python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        began = os.times().elapsed
        file.write_text(changed.source, encoding="utf-8")
        process = subprocess.Popen(command, cwd=self.folder, env=env, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            caught = process.wait(limit) != 0
        except subprocess.TimeoutExpired:
            caught = True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what a test left running
            process.wait()
            file.write_bytes(original)
        return {"caught": caught, "seconds": round(os.times().elapsed - began, 1)}


def chosen(root: Path, modules: Sequence[str], sample: int, seed: str) -> list[Mutant]:
    """A change for each of ``sample`` places of these modules (0: of all places), drawn by the seed.

    A larger sample begins with the smaller one.
    """
    draw = random.Random(seed)
    places = [(module, changes) for module in modules for changes in sites(root, module)]
    draw.shuffle(places)
    found: list[Mutant] = []
    for module, changes in places:
        changed = mutant(root, module, *draw.choice(changes))
        if is_python(changed.source):  # "if not name := value" is not, and any test would notice
            found.append(changed)
        if sample and len(found) == sample:
            break
    return found


def is_python(source: str) -> bool:
    try:
        compile(source, "changed", "exec")
    except SyntaxError:
        return False
    return True


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=15, help="changes in each package; 0: one at every place")
    parser.add_argument("--seed", default="1", help="which ones are drawn")
    parser.add_argument("--module", help="only modules whose path contains this")
    parser.add_argument("--python", default=sys.executable, help="runs the tests")
    parser.add_argument("--results", type=Path, default=ROOT / "build-mutate" / "results.jsonl")
    options = parser.parse_args(arguments)
    targets: Mapping[str, Sequence[str]] = json.loads(TARGETS.read_text(encoding="utf-8"))
    packages: dict[str, list[str]] = {}
    for module in targets:
        if not options.module or options.module in module:
            packages.setdefault(module.split("/")[1], []).append(module)
    if not packages:
        parser.error(f"no module of {TARGETS.name} contains {options.module!r}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with the copy and the tests cleared away
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))  # of the tests, too
    totals, survivors = {"all": [0, 0]}, []
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        workshop = Workshop(ROOT, Path(folder), options.results.resolve(), options.python)
        for package, modules in packages.items():
            totals[package] = [0, 0]
            for changed in chosen(workshop.folder, modules, options.sample, f"{options.seed} {package}"):
                is_caught = workshop.is_caught(changed, targets[changed.module])
                line = f"{changed.module}:{changed.line}  {changed.change}"
                print("caught   " if is_caught else "SURVIVED ", line, sep="", flush=True)
                survivors += [] if is_caught else [line]
                for total in (totals[package], totals["all"]):
                    total[0] += 1
                    total[1] += is_caught
    print(f"\n{'package':12} {'mutants':>7} {'caught':>7} {'share':>6}")
    for package, (count, caught) in sorted(totals.items()):
        print(f"{package:12} {count:7} {caught:7} {caught / max(count, 1):6.0%}")
    print(*(f"survived {line}" for line in survivors), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
