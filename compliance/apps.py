from datetime import datetime

from django.apps import AppConfig


class ComplianceConfig(AppConfig):
    name = "compliance"

    def ready(self) -> None:
        # Models are importable only now.
        from compliance import control_events, datasets, grants, tombstones
        from compliance.erasure import setup
        from compliance.keys import destroying, inventory
        from compliance.models import EventSecret, Tombstone
        from compliance.privacy import datasets as privacy_datasets
        from compliance.privacy import own, own_retention

        def redact(stone: Tombstone, now: datetime) -> bool:
            return EventSecret.objects.filter(event_id=stone.target_id).delete()[0] > 0

        grants.append_only("compliance_auditevent")
        for kind in ("leaf", "node", "checkpoint", "anchor"):
            grants.append_only(f"compliance_log{kind}")
        # What waits is written and taken away by triggers alone; a log is never taken away.
        grants.narrow("compliance_logpending", "SELECT")
        grants.narrow("compliance_logbackfill", "SELECT")
        grants.narrow("compliance_log", "SELECT, INSERT, UPDATE")
        datasets.register()
        control_events.register()
        tombstones.register("event.redact", redact)
        tombstones.register("data_key.destroy", destroying.replay)
        inventory.register()
        # No key is forgotten: what was destroyed says so for good.
        for table in ("datakey", "kekversion", "keydestruction"):
            grants.narrow(f"compliance_{table}", "SELECT, INSERT, UPDATE")

        grants.append_only("compliance_retentionrun", "compliance_processingversion")
        own.register()
        setup.register()
        own_retention.register()
        privacy_datasets.register()
