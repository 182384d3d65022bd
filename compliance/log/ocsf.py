"""Events as OCSF says them (schema 1.3.0), for whoever keeps many sources in one place. Pure.

The event's own body goes along in `unmapped`, as it stands in the log, so that a leaf can still be
computed from it.
"""

import json
from collections.abc import Mapping
from typing import Any

VERSION = "1.3.0"
# noun → class; the rest is API activity. (category, class, name)
_CLASSES = {
    "user": (3, 3001, "Account Change"),
    "membership": (3, 3005, "User Access Management"),
    "session": (3, 3002, "Authentication"),
}
_API = (6, 6003, "API Activity")
_ACTIVITIES = {
    6003: {"create": 1, "read": 2, "download": 2, "disclose": 2, "update": 3, "delete": 4},
    3001: {"create": 1, "set_password": 4},
    3005: {"create": 1, "change_role": 1, "delete": 2},
    3002: {"create": 1, "delete": 2, "refuse": 1},
}
_OTHER = 99
_SEVERITIES = {"success": 1, "denied": 3, "failure": 3}  # informational, medium


def event(body: bytes, *, origin: str, index: int, time_ms: int) -> dict[str, Any]:
    """`body`: an event's exact canonical JSON; `time_ms`: since 1970, by its writer's clock."""
    said: dict[str, Any] = json.loads(body)
    noun, _, verb = said["action"].partition(".")
    category, class_uid, class_name = _CLASSES.get(noun, _API)
    activity = _ACTIVITIES[class_uid].get(verb, _OTHER)
    result = said["outcome"]["result"]
    known = {
        "activity_id": activity,
        "activity_name": verb,
        "category_uid": category,
        "class_uid": class_uid,
        "class_name": class_name,
        "type_uid": class_uid * 100 + activity,
        "time": time_ms,
        "severity_id": _SEVERITIES.get(result, 1),
        "status_id": 1 if result == "success" else 2,
        "status_code": said["outcome"].get("reason_code", ""),
        "metadata": {
            "version": VERSION,
            "uid": said["id"],
            "log_name": origin,
            "sequence": index,
            "product": {"name": "Stoa", "vendor_name": "Stoa"},
        },
        "actor": {"user": _user(said["actor"])},
        "user": _user(said["target"][0] if noun in ("user", "membership") else said["actor"]),
        "api": {
            "operation": said["action"],
            "request": {"uid": said.get("request", {}).get("id", "")},
        },
        # An address is personal: the log has it as a commitment.
        "src_endpoint": {"name": "withheld"},
        "resources": [{"type": each["type"], "uid": each["id"]} for each in said["target"]],
        "privileges": [
            str(each["to"]) for each in said.get("change", []) if each["path"] == "role"
        ],
        "unmapped": {"body": body.decode()},
    }
    needless = {"user", "privileges"} if class_uid == 6003 else {"src_endpoint", "api"}
    return {name: value for name, value in known.items() if name not in needless}


def _user(who: Mapping[str, Any]) -> dict[str, Any]:
    return {"uid": who["id"], "type": who["type"]}
