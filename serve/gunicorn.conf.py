"""How Gunicorn runs the service: settings come from MLOPS_ variables (docs/settings.md); override any of them below."""

from mlops_nb.serving.server.configuration import gunicorn_settings

globals().update(gunicorn_settings())

# timeout = 120
