"""The public register of data structures and formats, of the same schemas as the bundle.

REQ-DA-03 and -06: what can be taken along, in which files, by which schema; what cannot, and why.
"""

import hashlib
from typing import Any

import msgspec
import rfc8785

from compliance.bundles import kinds, tables
from controlplane.switching import catalogue

PATH = "documents/register.json"
FORMATS = {
    "bundle": "ZIP of stored files, with a signed manifest of their SHA-256",
    "configuration": "JSON Lines (UTF-8, RFC 8259), each line by its JSON Schema 2020-12",
    "tables": "CSV (RFC 4180) and JSON Lines (RFC 8785), with a JSON Schema",
    "invoices": "EN 16931 CII in XML, PDF/A-3 with it inside, and JSON",
    "weights": "as they were uploaded: safetensors and JSON, with their SHA-256",
    "audit log": "C2SP tlog checkpoints, a Merkle tree by RFC 6962",
}
INTERFACES = {
    "inference": "OpenAI's HTTP API, /v1",
    "management": "OpenAPI 3, /api/v1/schema",
    "verifier": "/verify/stoa_verify.py",
}


def whole() -> dict[str, Any]:
    return {
        "format": catalogue.FORMAT,
        "categories": [
            {"name": one.name, "title": one.title, "files": _files(one), "folders": one.documents}
            for one in catalogue.CATEGORIES
        ],
        "excluded": [
            {"name": one.name, "reason": one.reason, "words": one.words}
            for one in catalogue.EXCLUDED
        ],
        "formats": FORMATS,
        "interfaces": INTERFACES,
        "charges": "none, for switching and for leaving (Regulation (EU) 2023/2854, Art. 29)",
    }


def content() -> bytes:
    """The same bytes in every bundle of this version and on the public page."""
    return msgspec.json.format(msgspec.json.encode(whole(), order="sorted")) + b"\n"


def schemas() -> dict[str, bytes]:
    """Of every file, by the path of the schema in a bundle."""
    found = {one.schema_path: rfc8785.dumps(one.schema()) for one in catalogue.RESOURCES}
    for name in catalogue.DATASETS:
        columns = kinds.datasets[name].columns
        found[f"schemas/{name}.json"] = rfc8785.dumps(tables.schema(name, columns))
    return found


def _files(category: catalogue.Category) -> list[dict[str, str]]:
    known = schemas()
    told = []
    for name in category.resources:
        one = catalogue.BY_NAME[name]
        told.append((one.path, one.title, one.schema_path, one.left))
    for name in category.datasets:
        kept = "kept as evidence in the archived bundle"
        told.append((f"data/{name}.jsonl", name.replace("_", " "), f"schemas/{name}.json", kept))
    return [
        {
            "path": path,
            "title": title,
            "schema": schema,
            "schema_sha256": hashlib.sha256(known[schema]).hexdigest(),
            "taken_over": left or "yes",
        }
        for path, title, schema, left in told
    ]
