"""Packaging: everything is read from settings.ini."""

import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py

root = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(root / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
package = cfg["lib_path"]


class DistributionWithFiles(Distribution):
    """Installs `data_files` with an editable install, too: setuptools asks for them by this name."""

    has_data = Distribution.has_data_files


class BuildWithTemplate(build_py):
    """Packs the files that new projects are made of."""

    def run(self):
        """Copy the modules, then the template."""
        super().run()
        listed = f"{cfg.get('template', '')} {cfg.get('template_locks', '')}".split()
        for name in listed if not self.editable_mode else ():
            source, place = root / name, Path(self.build_lib, package, "template", name)
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
                shutil.copytree(source, place, dirs_exist_ok=True, ignore=ignored)
            else:
                shutil.copy2(source, place)


def data_files() -> list[tuple[str, list[str]]]:
    """Return the files for Jupyter, by their folder in an environment."""
    folder = Path(cfg["jupyter_files"]) if "jupyter_files" in cfg else None
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder else []
    return [(str(p.parent.relative_to(folder)), [str(p)]) for p in files]


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="Apache-2.0",
    url=cfg["git_url"],
    keywords=cfg["keywords"].split(),
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[package, f"{package}.*"], exclude=[f"{package}.template*"]),
    package_data={package: ["**/static/**/*", "**/templates/**/*", "**/*.txt", "py.typed"]},
    data_files=data_files(),
    exclude_package_data={package: ["**/jupyter/**/*"]},  # they are `data_files`
    install_requires=cfg["requirements"].split(),
    extras_require={k.removesuffix("_requirements"): v.split() for k, v in cfg.items() if k.endswith("_requirements")},
    entry_points={
        "console_scripts": cfg.get("console_scripts", "").split(),
        "jupyter_serverproxy_servers": cfg.get("jupyter_tabs", "").split(),
        "nbdev": [f"{package}={package}._modidx:d"],
    },
    distclass=DistributionWithFiles,
    cmdclass={"build_py": BuildWithTemplate},
)
