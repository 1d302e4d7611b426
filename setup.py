"""Build step of a wheel: the steps' folders, ``config.yaml`` and what goes with them are packed as ``bccp/project``."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SINGLE = ("MLproject", "conda.yml", "config.yaml", "main.py")
FOLDERS = ("dashboards", "data_sets", "experiments")


def project_files() -> list[str]:
    """Paths, relative to the checkout, of the files that the pipeline reads beside the package."""
    steps = [path.parent for path in ROOT.glob("*/MLproject")]
    found = [ROOT / name for name in SINGLE] + [step / name for step in steps for name in ("MLproject", "conda.yml", "run.py")]
    found += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.yaml")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


class BuildWithProject(build_py):
    """``build_py`` that adds the project's files; an editable install reads them from the checkout."""

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        package = Path(self.build_lib) / "bccp"
        shutil.rmtree(package, ignore_errors=True)  # an earlier build's modules, since moved, would be packed again
        super().run()
        for name in project_files():
            target = package / "project" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)

    def get_source_files(self) -> list[str]:
        """Sources of the package, and the project's files: an sdist holds them too."""
        return [*super().get_source_files(), *project_files()]


setup(cmdclass={"build_py": BuildWithProject})
