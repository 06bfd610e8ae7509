__version__ = "0.1.0"


def load_ipython_extension(shell):
    "Add `%mlops`, `%production`, `%models` and `%runs`: `%load_ext mlops_nb`."
    from importlib import import_module  # an import statement would make every build depend on the magics' code

    magics = import_module("mlops_nb.notebook.magics")
    shell.register_magics(magics.MlopsMagics)
    magics.add_completion(shell)
