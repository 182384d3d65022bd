from django.apps import AppConfig


class ComplianceConfig(AppConfig):
    name = "compliance"

    def ready(self) -> None:
        # Models are importable only now.
        from compliance import datasets, grants

        grants.append_only("compliance_auditevent")
        datasets.register()
