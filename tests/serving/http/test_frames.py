"""Whose pages may show those of the service in a frame."""

import pytest

from mlops_nb.errors import SettingsError
from mlops_nb.serving.http.static import SECURITY_HEADERS, allow_frames
from mlops_nb.settings import Settings, split_ancestors


class Response:
    def __init__(self, **headers: str):
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def test_sites_of_the_setting_replace_those_of_the_policy_and_nothing_else():
    hook, policy = (
        allow_frames(split_ancestors("self, https://hub.example.org")),
        SECURITY_HEADERS["Content-Security-Policy"],
    )
    allowed = hook(Response(Content_Security_Policy=policy)).headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy, "without the setting"
    assert allowed.split("; ")[:-1] == policy.split("; ")[:-1]
    assert allowed.split("; ")[-1] == "frame-ancestors 'self' https://hub.example.org"
    assert hook(Response()).headers == {}, "a response without a policy gets none"


@pytest.mark.parametrize("text", ["*", "none", "https://x/path", "https://x; script-src *", "'self'"])
def test_what_is_no_site_is_refused(text):
    with pytest.raises(SettingsError, match="MLOPS_FRAME_ANCESTORS takes self and sites"):
        Settings.read({"MLOPS_FRAME_ANCESTORS": text})
