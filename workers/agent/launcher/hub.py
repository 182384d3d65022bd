"""Bring a model from a hub into a folder: the one part of the engine's side with a network.

Reads {"model", "revision", "directory"} as JSON from argv[1]. Prints {"revision": COMMIT} when
all files are there, else {"error": TEXT, "missing": bool} and ends with status 1: `missing` when
the hub answered and has no such model for us.
"""

import json
import sys
from typing import Any

# Weights once, in the format that can hold no code; and what a tokenizer needs.
PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken"]


def main() -> None:
    request = json.loads(sys.argv[1])
    reply = fetch(request["model"], request["revision"] or None, request["directory"])
    print(json.dumps(reply), flush=True)
    sys.exit(1 if "error" in reply else 0)


def fetch(model: str, revision: str | None, directory: str) -> dict[str, Any]:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        # Asked first, with a short wait: without a network this is the answer within seconds.
        commit = HfApi().model_info(model, revision=revision, timeout=10).sha
        snapshot_download(
            model, revision=commit, local_dir=directory, allow_patterns=PATTERNS, max_workers=8
        )
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        return {"error": _line(error), "missing": True}
    except Exception as error:  # the network, the disk, and what the library makes of them
        return {"error": _line(error), "missing": False}
    return {"revision": commit}


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:300]
