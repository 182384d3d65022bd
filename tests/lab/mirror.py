"""`python -m tests.lab.mirror ADDRESS PORT NAME FOLDER`: a hub with one model, for the lab."""

import sys
import threading
from pathlib import Path

from tests.agent.fake_hub import FakeHub, Repo


def main(address: str, port: int, name: str, folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with FakeHub({name: Repo(files)}, address=address, port=port):
        print("listening", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
