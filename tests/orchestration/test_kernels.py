"""Kernels that are forked: the same notebooks as from kernels of their own, and none is left over."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading

import nbformat
import psutil
import pytest

from mlops_nb.orchestration import kernels
from tests.factories import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")

CELLS = """
import os, random, sys, warnings
import matplotlib.pyplot as plt
import numpy as np
__name__, sys.argv[0].endswith("ipykernel_launcher.py"), os.getcwd() == os.environ["PWD"], os.environ["SAID"]
--
warnings.warn("shown", UserWarning)
_ = plt.plot([1, 2])
--
print("to stdout")
os.system("echo from a program")
sorted(name for name in globals() if name[0] != "_")
--
import matplotlib, pandas as pd, pandas._config.config as options, sklearn
sorted(f"{key}: {value}" for key, value in matplotlib.rcParams.items())
--
known = sorted(key for key in options._registered_options if key not in options._deprecated_options)
{key: str(pd.get_option(key)).lower() for key in known}
--
np.get_printoptions(), np.geterr(), sklearn.get_config()
--
pd.DataFrame({f"column {i}": [i] for i in range(25)})
--
from tqdm.auto import tqdm
tqdm.__module__
"""
DRAWS = """
import os, random
import numpy as np
np.random.random(), random.random(), os.getpid()
"""


def notebook(path, code: str):
    cells = [nbformat.v4.new_code_cell(cell) for cell in textwrap.dedent(code).strip().split("\n--\n")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def run(folder, code: str) -> subprocess.Popen:
    """Run code in a process that has forked kernels and no other thread."""
    script = folder / "script.py"
    script.write_text(
        "import sys, papermill, numpy, matplotlib.pyplot, pandas, sklearn, tqdm.auto\n"
        "from mlops_nb.orchestration.kernels import forked_kernels\n"
        "def execute(source, target):\n"
        "    papermill.execute_notebook(source, target, progress_bar=False, kernel_name='python3')\n"
        + textwrap.dedent(code)
    )
    environment = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"} | {"SAID": "hello", "PWD": str(folder)}
    return subprocess.Popen([sys.executable, script], cwd=folder, env=environment, start_new_session=True)


def outputs(path) -> list:
    """What a notebook shows, as text; images by their type alone."""
    shown = []
    for output in (output for cell in nbformat.read(path, 4).cells for output in cell.outputs):
        data = output.get("data", {"": output.get("text")})
        texts = {kind: text for kind, text in data.items() if kind != "image/png"}
        shown.append(
            (output.output_type, sorted(data), "" if "image/png" in data else re.sub(r"ipykernel_\d+", "", str(texts)))
        )
    return shown


@pytest.mark.slow
def test_forked_kernels_give_the_same_notebook_and_draw_numbers_of_their_own(tmp_path):
    for name, code in {"cells": CELLS, "draws": DRAWS, "dies": "import os\nos._exit(3)"}.items():
        notebook(tmp_path / f"{name}.ipynb", code)
    code = """
    execute("cells.ipynb", "own.ipynb")
    """
    assert run(tmp_path, code).wait(120) == 0
    code = """
    from nbclient.exceptions import DeadKernelError
    with forked_kernels(["no_such_module", "fractions"]):
        from mlops_nb.orchestration import kernels
        print(kernels._server.pid, file=open("server", "w"))
        execute("cells.ipynb", "forked.ipynb")
        execute("draws.ipynb", "first.ipynb")
        try:
            execute("dies.ipynb", "died.ipynb")
        except DeadKernelError:
            execute("draws.ipynb", "second.ipynb")
    """
    assert run(tmp_path, code).wait(120) == 0
    assert outputs(tmp_path / "forked.ipynb") == outputs(tmp_path / "own.ipynb")
    assert any("image/png" in kinds for _, kinds, _ in outputs(tmp_path / "forked.ipynb"))
    first, second = (eval(outputs(tmp_path / f"{name}.ipynb")[0][2])["text/plain"] for name in ("first", "second"))
    assert all(a != b for a, b in zip(eval(first), eval(second), strict=True))
    assert not psutil.pid_exists(int((tmp_path / "server").read_text()))


@pytest.mark.slow
def test_modules_of_later_notebooks_are_imported_beside_the_first_kernel(tmp_path):
    notebook(tmp_path / "loaded.ipynb", "import sys\n[name in sys.modules for name in ('this', 'graphlib')]")
    code = """
    with forked_kernels(["this"], ["no_such_module", "graphlib"]):
        for number in range(9):
            execute("loaded.ipynb", f"{number}.ipynb")
            if "[True, True]" in open(f"{number}.ipynb").read():
                break
    """
    assert run(tmp_path, code).wait(120) == 0
    shown = [outputs(path)[0][2] for path in sorted(tmp_path.glob("[0-9].ipynb"))]
    assert all("[True, " in text for text in shown), "the first kernel waits for its own modules"
    assert "[True, True]" in shown[-1]


@pytest.mark.slow
def test_forked_kernels_end_with_a_process_that_is_killed(tmp_path):
    notebook(tmp_path / "waits.ipynb", "import os, time\nopen('waits', 'w').close()\ntime.sleep(60)")
    process = run(tmp_path, "with forked_kernels([]):\n    execute('waits.ipynb', 'out.ipynb')")
    try:
        wait_for(lambda: (tmp_path / "waits").exists(), 60)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) == 2, "the process that forks, and the kernel"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    _gone, alive = psutil.wait_procs(family, timeout=20)
    assert not alive


def test_nothing_is_forked_beside_a_thread():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with kernels.forked_kernels([]):
            assert kernels._server is None
    finally:
        stop.set()
        thread.join()
