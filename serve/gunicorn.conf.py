"""The configuration of Gunicorn, from the MLOPS_ variables (docs/settings.md); override any setting below."""

from mlops_nb.serving.server.configuration import gunicorn_settings

globals().update(gunicorn_settings())

# timeout = 120
