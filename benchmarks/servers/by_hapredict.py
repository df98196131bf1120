"""hapredict through HAProxy on a cluster of its own, with one replica; everything else is default.

python -m servers.by_hapredict PORT DATA_PLANE

Monitor and controller run as always. The model is not trained here: it comes with the store.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from servers.scorer import FOLDER_VARIABLE
from servers.waiting import obey

from hapredict.control import ray_embedded
from hapredict.control.ray_apply import apply
from hapredict.control.specs import store_url, write_spec
from hapredict.registry.store import open_store
from hapredict.sections_live import ServingSpec
from hapredict.spec import build_spec

APPLY_S = 180


def main(port: int, plane: str) -> None:
    """Start, deploy, and wait to be told to end."""
    folder = Path(os.environ[FOLDER_VARIABLE])
    settings = {"min_replicas": 1, "max_replicas": 1}
    if "data_plane" in ServingSpec.model_fields:
        settings["data_plane"] = plane
    raw = json.loads((folder / "spec.json").read_text())
    spec = build_spec({**raw, "serving": {**raw["serving"], **settings}})
    home = Path(tempfile.mkdtemp(prefix="bench-hapredict-"))
    obey()
    try:
        shutil.copytree(folder / "store", home / "store")
        # a spec that is known already sends nobody to look at its data, of which there are none
        write_spec(open_store(store_url(spec, home)), spec)
        ray_embedded.start(home, serve_port=port)
        ray_embedded.connect(home)
        apply(spec, home, lambda *_: None, wait_s=APPLY_S)
        ray_embedded.disconnect()
        obey()  # Ray has set handlers of its own
        signal.pause()
    finally:
        ray_embedded.stop(home)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
