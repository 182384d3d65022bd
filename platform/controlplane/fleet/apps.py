from django.apps import AppConfig


class FleetConfig(AppConfig):
    name = "controlplane.fleet"

    def ready(self) -> None:
        # Models are importable only now.
        from controlplane.fleet import billed, node_events, privacy, tombstones

        billed.register()
        node_events.register()
        tombstones.register()
        privacy.register()
