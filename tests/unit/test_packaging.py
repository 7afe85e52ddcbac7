"""The build files (lock, setup.py, wheel, Makefile, .ci/run) agree and do what they say."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from summarymixing_modules._version import __version__
from summarymixing_modules.compat import SUPPORTED, TESTED_PAIR

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "summarymixing_modules"
UNLOCKED = {"datasets", "sounddevice", "transformers"}  # of extras that no test needs
OPTIONAL = {"causal_conv1d", "mamba_ssm", "triton"}  # faster kernels, used where they are installed
MAY_BE_ABSENT = {"matplotlib", "espeakng_loader"}  # of figures and the demo
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def run(command: list[str], cwd: Path, path: Path | None = None) -> CompletedProcess[str]:
    """Run a command, with `path` first on PATH, and as if no `make` were around this test."""
    env = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL", "PYTHON"}}
    env |= {"CI": "true", "PATH": f"{path}{os.pathsep}{env['PATH']}"} if path else {}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that setup.py builds, from a copy, so that the checkout stays as it is."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / PACKAGE, source / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    built = run([sys.executable, "-c", code], cwd=source)
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(source / "dist" / built.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def requirements(wheel: zipfile.ZipFile) -> list[Requirement]:
    """What the wheel declares, extras included."""
    text = wheel.read(f"{PACKAGE}-{__version__}.dist-info/METADATA").decode()
    return [Requirement(r) for r in re.findall(r"^Requires-Dist: (.*)$", text, re.MULTILINE)]


@pytest.fixture(scope="module")
def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [re.match(r"([a-z0-9-]+)==([^ ;]+)", line) for line in lines]
    return {pin[1]: pin[2] for pin in pins if pin}


def test_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """A folder without `__init__.py`, or a data file setup.py does not name, would be left out."""
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / PACKAGE).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert found == expected


def test_wheel_metadata(wheel: zipfile.ZipFile) -> None:
    info = f"{PACKAGE}-{__version__}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert re.search(r"^Requires-Python: (<3.14,>=3.11|>=3.11,<3.14)$", metadata, re.MULTILINE)
    assert re.search(r"^License(-Expression)?: Apache-2.0$", metadata, re.MULTILINE)
    entry_points = wheel.read(f"{info}/entry_points.txt").decode()
    assert "summarymixing = summarymixing_modules.cli:main" in entry_points
    assert any(name.endswith("LICENSE") for name in wheel.namelist())


def test_the_ranges_checked_at_run_time_are_the_ones_declared(
    requirements: list[Requirement],
) -> None:
    declared = {r.name: r.specifier for r in requirements if r.marker is None}
    for name, (versions, _) in SUPPORTED.items():
        assert declared[name] == Requirement(name + versions).specifier


def imports_of(nodes: list[ast.stmt]) -> Iterator[str]:
    """The top-level names that these statements import from outside the package and Python."""
    for node in nodes:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        tops = {name.split(".")[0] for name in names}
        yield from tops - sys.stdlib_module_names - {PACKAGE}


def modules_of_package() -> list[tuple[str, ast.Module]]:
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    return [(file.relative_to(ROOT).as_posix(), ast.parse(file.read_text())) for file in files]


def test_what_the_package_imports_is_declared(requirements: list[Requirement]) -> None:
    """What others happen to bring along may be gone with their next version."""
    declared = {canonicalize_name(r.name) for r in requirements}
    distributions = packages_distributions()
    for file, tree in modules_of_package():
        statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        for name in imports_of(statements):
            brought_by = {canonicalize_name(d) for d in distributions.get(name, [name])}
            assert name in OPTIONAL or brought_by & declared, f"{file} imports {name}: undeclared"


def test_what_a_gpu_image_may_lack_is_not_imported_with_the_package() -> None:
    for file, tree in modules_of_package():
        eager = set(imports_of(tree.body)) & (OPTIONAL | MAY_BE_ABSENT)
        assert not eager, f"{file} imports {eager} at module level: import it where it is used"


def test_lock_satisfies_every_declared_requirement(
    requirements: list[Requirement], locked: dict[str, str]
) -> None:
    assert len(requirements) > 15
    for requirement in requirements:
        if requirement.name in UNLOCKED:
            continue
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not locked: run `make lock`"
        assert version in requirement.specifier, f"{requirement}, but {version} is locked"


def test_lock_holds_the_tested_pair_with_its_cuda_packages(locked: dict[str, str]) -> None:
    """Without CUDA's packages the locked torch would not run on a GPU."""
    for pin in TESTED_PAIR:
        name, version = pin.split("==")
        assert locked[name] == version
    needed = {"triton", "cuda-toolkit", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nccl-cu13"}
    assert needed <= locked.keys()


def test_lock_has_the_build_requirements(locked: dict[str, str]) -> None:
    """`make install` builds without isolation, from the locked setuptools."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for text in pyproject["build-system"]["requires"]:
        requirement = Requirement(text)
        assert locked[requirement.name] in requirement.specifier


def test_lock_is_exact_hashed_and_free_of_addresses() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|file:|--index|--extra-index|--find-links|(^|\s)/\w", text)
    packages = re.split(r"\n(?=[a-z])", text)[1:]
    assert len(packages) > 50
    for package in packages:
        assert re.match(r"[a-z0-9-]+==\S+", package), package.splitlines()[0]
        assert "--hash=sha256:" in package, package.splitlines()[0]


@pytest.fixture
def make_copy(tmp_path: Path) -> Path:
    """A folder with the Makefile alone."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    return tmp_path


def fake_python(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@needs_make
def test_make_passes_over_interpreters_that_exist_but_fail(make_copy: Path) -> None:
    """A version manager's shim exists for versions that are not selected, and fails."""
    bin_folder = make_copy / "bin"
    fake_python(bin_folder, "python3.11", 'echo "command not found" >&2; exit 127')
    fake_python(bin_folder, "python3.12", f'exec "{sys.executable}" "$@"')
    found = run(["make", "python"], cwd=make_copy, path=bin_folder)
    assert (found.returncode, found.stdout.strip()) == (0, "python3.12")


@needs_make
def test_make_says_what_to_do_when_no_interpreter_fits(make_copy: Path) -> None:
    fake_python(make_copy, "python3.8", "exit 1")
    asked = run(["make", "python", f"PYTHON={make_copy}/python3.8"], cwd=make_copy)
    assert asked.returncode != 0
    assert "none is a working Python 3.11, 3.12 or 3.13" in asked.stderr
    assert f"tried {make_copy}/python3.8" in asked.stderr
    assert "make PYTHON=/path/to/python3.12" in asked.stderr
    assert asked.stdout.strip() == ""


@needs_make
def test_make_clean_keeps_results_and_data(make_copy: Path) -> None:
    kept = ["results/run/model.ckpt", "data/a.wav", "recipes/X/results/log.txt", "RESULTS.md"]
    gone = [".venv/x", ".venv-bootstrap/x", ".mypy_cache/x", f"{PACKAGE}/ops/__pycache__/x.pyc"]
    for name in [*kept, *gone, "tests/test_x.py"]:
        path = make_copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    cleaned = run(["make", "clean"], cwd=make_copy)
    assert cleaned.returncode == 0, cleaned.stderr
    assert all((make_copy / name).exists() for name in kept)
    assert not any((make_copy / name).exists() for name in gone)


@needs_make
def test_ci_runs_lint_and_then_the_tests_in_a_fresh_environment(make_copy: Path) -> None:
    """With a `make` that only notes its arguments: the order, the output and the exit status."""
    shutil.copytree(ROOT / ".ci", make_copy / ".ci")
    for stale in (".venv/stale", ".venv-bootstrap/stale"):
        (make_copy / stale).mkdir(parents=True)
    note = 'echo "$1" >> calls; if [ "$1" = test ]; then echo "== 3 passed in 1s =="; exit 7; fi'
    fake_python(make_copy / "bin", "make", note)
    done = run(["bash", ".ci/run"], cwd=make_copy, path=make_copy / "bin")
    assert (make_copy / "calls").read_text().split() == ["install", "lint", "test"]
    assert not (make_copy / ".venv").exists() and not (make_copy / ".venv-bootstrap").exists()
    assert done.stdout.splitlines()[-1] == "== 3 passed in 1s =="
    assert done.returncode == 7
