"""Helper, no test: an application that is never loaded; a file named like its process shows that it has begun."""

import os
import time
from pathlib import Path

(Path(os.environ["STARTED"]) / str(os.getpid())).touch()
while True:
    time.sleep(0.01)
