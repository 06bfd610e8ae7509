"""Write the pages that are made from the code: docs/settings.md and docs/commands.md."""

from pathlib import Path

import click

from mlops_nb.cli.main import main
from mlops_nb.settings import settings_table

HERE = Path(__file__).parent


def command_pages(command: click.Command, path: str) -> list[str]:
    """The help of a command and of those below it."""
    with click.Context(command, info_name=path, **main.context_settings) as context:
        pages = [f"## `{path}`\n\n```\n{command.get_help(context)}\n```\n"]
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        pages += command_pages(inner, f"{path} {name}")
    return pages


SETTINGS = """# Settings

Environment variables, read in one place (`mlops_nb.settings`). A name that begins with `MLOPS_` and is none of
these is an error, as is a value of the wrong type. (`MLOPS_RUN_ID` and `MLOPS_BUILD_PID` are no settings: a
build sets them, so that its tasks know their run.)

"""

COMMANDS = """# Commands

What `mlops-nb` does; this page is its `--help`. Everything else has a command of its own: `ploomber build`
(`ploomber status`, `ploomber plot`), `nbdev_export`, `pytest --nbval`, `jupyter lab`, `wandb sync`. Results go to
stdout, messages to stderr; the exit code is 0 when all went well, 1 when not, 2 for words it does not know.

"""

if __name__ == "__main__":
    (HERE / "settings.md").write_text(SETTINGS + settings_table() + "\n")
    (HERE / "commands.md").write_text(COMMANDS + "\n".join(command_pages(main, "mlops-nb")))
