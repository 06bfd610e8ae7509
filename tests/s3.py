"""An S3 that answers over HTTP: moto, as a process of its own."""

import os
import subprocess
import sys
import uuid
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

from tests.factories import free_port, wait_for

# Recognisable wherever they should not be
KEY, SECRET = "AKIARECOGNISABLE1234", "s3cretRecognisable/key+0123456789abcdef"


class S3:
    """A server with buckets, and the environment of somebody who uses it."""

    def __init__(self, log: Path):
        self.port, self.log = free_port(), log
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file)
        wait_for(self._answers, 60)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.ask("GET", "/moto-api/")[0] == 200
        except OSError:
            return False

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """A request as it is, without a signature: moto takes it."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body)
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    def bucket(self) -> str:
        """A new bucket."""
        name = f"b{uuid.uuid4().hex}"
        assert self.ask("PUT", f"/{name}")[0] == 200
        return name

    def names(self, url: str) -> list[str]:
        """What lies below s3://bucket/prefix."""
        parts = urlsplit(url)
        prefix = parts.path.lstrip("/")
        found = ElementTree.fromstring(self.ask("GET", f"/{parts.netloc}?list-type=2&prefix={prefix}")[1])
        return [e.text.removeprefix(prefix).lstrip("/") for e in found.iterfind(".//{*}Contents/{*}Key")]

    def environment(self, port: int | None = None) -> dict[str, str]:
        """How its clients find it, directly or through another port."""
        own = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "MLOPS_", "FSSPEC_"))}
        own |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
        own |= {"AWS_EC2_METADATA_DISABLED": "true"}
        return own | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}"}

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=20)
