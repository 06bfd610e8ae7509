"""The model card of a version as a page."""

from pathlib import Path

from markupsafe import Markup


def render_card(bundle: Path) -> Markup:
    """Return the card of a bundle as HTML; as it is written where no renderer of Markdown is installed."""
    text = (bundle / "model_card.md").read_text(encoding="utf-8")
    try:
        from mistune import create_markdown
    except ImportError:
        return Markup("<pre>{}</pre>").format(text)
    return Markup(create_markdown(escape=True, plugins=["table"])(text))
