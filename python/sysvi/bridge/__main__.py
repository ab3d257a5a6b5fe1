"""``python -m sysvi.bridge FOLDER`` runs the task that R wrote into a folder."""

import sys
from pathlib import Path

from sysvi.bridge.call import run_folder

run_folder(Path(sys.argv[1]))
