"""The names of Gunicorn that the worker relies on are in one list, and in the installed Gunicorn."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys

import gunicorn
import pytest
from gunicorn.config import Config

from mlops_nb.errors import SettingsError
from mlops_nb.serving.server import gunicorn_api
from mlops_nb.serving.server.configuration import gunicorn_settings
from mlops_nb.serving.server.gunicorn_api import ATTRIBUTES, IMPORTS, SETTINGS, SIGNATURES
from mlops_nb.serving.server.sockets import CallQueue
from mlops_nb.serving.server.worker import BoundedThreadWorker
from tests.factories import ROOT, free_port

FOLDER = ROOT / "mlops_nb" / "serving" / "server"
MODULES = sorted(FOLDER.glob("*.py"))


def find(name: str):
    """The object of `module:name`."""
    module, _, name = name.partition(":")
    return getattr(importlib.import_module(module), name)


def imported() -> dict[str, set[str]]:
    """The names that the modules of the server import from Gunicorn, by module."""
    found: dict[str, set[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [(alias.name, "__version__") for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "", alias.name) for alias in node.names]
            else:
                continue
            for module, name in names:
                if module.split(".")[0] == "gunicorn":
                    found.setdefault(module, set()).add(name)
    return found


def attributes_of_self(name: str) -> set[str]:
    """The attributes of `self` that the worker uses and does not define."""
    tree = ast.parse((FOLDER / "worker.py").read_text())
    (worker,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    own = {node.name for node in worker.body if isinstance(node, ast.FunctionDef)}
    used, made = set(), set()
    for node in ast.walk(worker):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            (made if isinstance(node.ctx, ast.Store) else used).add(node.attr)
    return used | made - own


def test_server_imports_the_listed_names_and_no_other():
    assert imported() == IMPORTS


@pytest.mark.parametrize("module", sorted(IMPORTS))
def test_imported_name_is_there(module):
    for name in IMPORTS[module]:
        assert hasattr(importlib.import_module(module), name), name


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_method_has_the_expected_parameters(name):
    found = find(name)
    for method, expected in SIGNATURES[name].items():
        function = found if inspect.isfunction(found) else getattr(found, method)
        assert tuple(inspect.signature(function).parameters) == expected, f"{name}.{method}"


@pytest.mark.parametrize("ours", [BoundedThreadWorker, CallQueue])
def test_overridden_methods_are_listed(ours):
    (base,) = ours.__bases__
    listed = set(SIGNATURES[f"{base.__module__}:{base.__name__}"])
    public = {name for name, value in vars(ours).items() if inspect.isfunction(value) or isinstance(value, classmethod)}
    overridden = {name for name in public if hasattr(base, name) and name != "__init__"}
    assert overridden <= listed


def test_attributes_that_the_worker_takes_from_gunicorn_are_listed():
    own = set(vars(BoundedThreadWorker)) | {"settings", "claims", "waits", "large", "stuck", "connections"}
    own |= {
        "vital_pool",
        "sharing_pool",
        "_next_check",
        "_next_notice",
        "_accept_again_at",
        "_yield",
        "_retire_after",
        "_max_keepalived",
    }
    listed = ATTRIBUTES["gunicorn.workers.gthread:ThreadWorker"] | set(
        SIGNATURES["gunicorn.workers.gthread:ThreadWorker"]
    )
    assert attributes_of_self("BoundedThreadWorker") - own <= listed


@pytest.mark.parametrize("name", sorted(ATTRIBUTES))
def test_attribute_is_made_by_gunicorn(name):
    source = "".join(inspect.getsource(each) for each in find(name).__mro__[:-1])
    missing = {attribute for attribute in ATTRIBUTES[name] if not re.search(rf"self\.{attribute}\b\s*=", source)}
    assert missing == set()


def test_setting_that_the_configuration_gives_is_listed_and_known_to_gunicorn():
    assert set(gunicorn_settings()) == SETTINGS
    assert Config().settings.keys() >= SETTINGS


def test_settings_that_the_worker_reads_are_known_to_gunicorn():
    read = set(re.findall(r"\bcfg\.(\w+)", (FOLDER / "worker.py").read_text()))
    assert read - {"settings", "is_ssl", "__dict__"} <= Config().settings.keys()
    assert isinstance(Config.is_ssl, property)


# versions


UNSUPPORTED = ["25.3.0", "26.0.0", "26.2.1", "28.0.0", "unknown"]


@pytest.mark.parametrize("version", UNSUPPORTED)
def test_unsupported_version_is_refused_with_what_to_install(version):
    with pytest.raises(SettingsError, match=rf'Gunicorn {version} is installed.*pip install "gunicorn>=27,<28"'):
        gunicorn_api.require_gunicorn(version)


def test_installed_version_is_supported():
    gunicorn_api.require_gunicorn()
    assert gunicorn.__version__.startswith(f"{gunicorn_api.SUPPORTED_MAJOR}.")


def test_modules_that_are_imported_before_the_check_need_nothing_that_an_old_version_lacks():
    """Of Gunicorn they may import its version alone: the rest is what old versions lack."""
    code = (
        "import sys, mlops_nb.serving.server.configuration\nprint(*sorted(m for m in sys.modules if 'gunicorn' in m))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    ours = "mlops_nb.serving.server.gunicorn_api"
    assert done.stdout.split() == ["gunicorn", ours]


SERVED = {"MLOPS_MODEL": "toy", "MLOPS_PORT": str(free_port())}


@pytest.mark.slow
@pytest.mark.parametrize("version", ["26.2.0", "28.0.0"])
@pytest.mark.parametrize(
    "command",
    [
        ["-m", "gunicorn", "-c", "serve/gunicorn.conf.py", "serve.wsgi:app"],
        ["-c", "from mlops_nb.cli.main import main; main()", "serve"],
    ],
    ids=["gunicorn", "mlops-nb serve"],
)
def test_unsupported_version_is_one_clear_error(tmp_path, version, command):
    """An installed Gunicorn of another version, as a module that runs when Python starts."""
    (tmp_path / "sitecustomize.py").write_text(f"import gunicorn; gunicorn.__version__ = {version!r}")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=kept | {"PYTHONPATH": str(tmp_path), "MLOPS_HOME": str(tmp_path), **SERVED},
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        f"Error: Gunicorn {version} is installed; the service runs on 27. "
        'Install another one: pip install "gunicorn>=27,<28"'
    ]
    assert done.stdout == ""
