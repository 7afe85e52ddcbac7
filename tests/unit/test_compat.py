"""check_environment: silent where the packages fit together, a sentence and a command elsewhere."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, PathDistribution
from pathlib import Path

import pytest

from summarymixing_modules import compat
from summarymixing_modules.compat import UnsupportedEnvironmentError, check_environment

GOOD = {
    "torch": "2.11.0",
    "torchaudio": "2.11.0",
    "speechbrain": "1.1.2",
    "hyperpyyaml": "1.2.3",
    "ruamel.yaml": "0.18.17",
}


class Site:
    """A site-packages folder with metadata and version files, and no package to import."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.installed = dict(GOOD)
        (root / "torchaudio" / "lib").mkdir(parents=True)
        (root / "torchaudio" / "lib" / "_torchaudio.abi3.so").touch()
        (root / "torch").mkdir()
        self.write_torch("2.11.0+cu130", "13.0")
        self.write_torchaudio("2.11.0+cu130")

    def write_torch(self, version: str, cuda: str | None) -> None:
        text = f"__version__ = {version!r}\ncuda: Optional[str] = {cuda!r}\nhip = None\n"
        (self.root / "torch" / "version.py").write_text(text)

    def write_torchaudio(self, version: str) -> None:
        (self.root / "torchaudio" / "version.py").write_text(f"__version__ = {version!r}\n")

    def distribution(self, name: str) -> Distribution:
        if name not in self.installed:
            raise PackageNotFoundError(name)
        folder = self.root / f"{name}-{self.installed[name]}.dist-info"
        folder.mkdir(exist_ok=True)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {self.installed[name]}\n"
        (folder / "METADATA").write_text(metadata)
        return PathDistribution(folder)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(tmp_path)
    monkeypatch.setattr(compat, "distribution", site.distribution)
    return site


def message_of_failure() -> str:
    with pytest.raises(UnsupportedEnvironmentError) as caught:
        check_environment()
    return str(caught.value)


def test_the_environment_of_this_run_passes() -> None:
    check_environment()


def test_known_good_versions_pass(site: Site) -> None:
    check_environment()


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("torch", "2.11.0+cu130"),
        ("torch", "2.14.1"),
        ("torch", "2.11.0a0+vendor.1"),
        ("ruamel.yaml", "0.18.6"),
        ("speechbrain", "1.1.3"),
    ],
)
def test_versions_within_range_pass(site: Site, name: str, version: str) -> None:
    site.installed[name] = version
    check_environment()


@pytest.mark.parametrize(
    ("name", "version", "needed"),
    [
        ("torch", "2.10.0", "torch>=2.11,<2.15"),
        ("torch", "2.15.0+cu132", "torch>=2.11,<2.15"),
        ("torchaudio", "2.8.0", "torchaudio>=2.11,<2.12"),
        ("speechbrain", "1.0.3", "speechbrain>=1.1.2,<1.2"),
        ("hyperpyyaml", "1.2.2", "hyperpyyaml>=1.2.3,<1.3"),
        ("ruamel.yaml", "0.19.1", "ruamel.yaml>=0.18,<0.19"),
    ],
)
def test_a_version_out_of_range_is_named_with_the_command_that_fixes_it(
    site: Site, name: str, version: str, needed: str
) -> None:
    site.installed[name] = version
    message = message_of_failure()
    assert f"{name} {version} is installed, but needed is {needed}" in message
    assert f'Fix: python -m pip install "{needed}"' in message
    assert message.count("Fix:") == 1


def test_every_problem_is_listed_at_once(site: Site) -> None:
    del site.installed["speechbrain"]
    site.installed |= {"torch": "2.15.0", "ruamel.yaml": "0.19.1"}
    message = message_of_failure()
    assert "speechbrain is not installed" in message
    assert "torch 2.15.0 is installed" in message
    assert "ruamel.yaml 0.19.1 is installed" in message
    assert message.count("Fix:") == 3


@pytest.mark.parametrize(
    ("torch_version", "cuda", "named"),
    [("2.13.0+cpu", None, "built for the CPU only"), ("2.11.0+cu126", "12.6", "for CUDA 12.6")],
)
def test_a_torch_that_torchaudio_cannot_load_beside_is_explained(
    site: Site, torch_version: str, cuda: str | None, named: str
) -> None:
    site.installed["torch"] = torch_version
    site.write_torch(torch_version, cuda)
    message = message_of_failure()
    assert "torchaudio 2.11.0 is built for CUDA 13.0" in message
    assert named in message
    assert "pip install torch==2.11.0 torchaudio==2.11.0" in message
    assert str(site.root / "torchaudio" / "lib") in message


def test_a_cpu_torch_fits_a_cpu_torchaudio(site: Site) -> None:
    site.installed |= {"torch": "2.11.0+cpu", "torchaudio": "2.11.0+cpu"}
    site.write_torch("2.11.0+cpu", None)
    site.write_torchaudio("2.11.0+cpu")
    check_environment()


def test_a_cpu_torch_fits_a_torchaudio_whose_compiled_library_was_removed(site: Site) -> None:
    site.write_torch("2.13.0+cpu", None)
    (site.root / "torchaudio" / "lib" / "_torchaudio.abi3.so").unlink()
    check_environment()


def test_the_check_imports_nothing_heavy() -> None:
    """It must speak before torchaudio's loader does, so it may import neither."""
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('compat', {compat.__file__!r})\n"
        "compat = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(compat)\n"
        "compat.check_environment()\n"
        "print(sorted({'torch', 'torchaudio', 'speechbrain', 'numpy'} & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["training", "data", "encoders", "models"])
def test_what_imports_speechbrain_checks_first(package: str) -> None:
    code = (
        "import sys; from summarymixing_modules import compat;"
        "compat.SUPPORTED['torch'] = ('<1', 'a test');"
        f"import summarymixing_modules.{package}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: The installed packages cannot")
    assert "Traceback" not in done.stderr


def test_one_line_of_speechbrain_is_dropped(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speechbrain.utils import train_logger

    import summarymixing_modules.training  # noqa: F401

    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert train_logger._get_image_saver() is None and not caplog.records
    train_logger.logger.warning("the disk is full")
    assert caplog.messages == ["the disk is full"]
