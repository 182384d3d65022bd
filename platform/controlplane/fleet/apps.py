from django.apps import AppConfig


class FleetConfig(AppConfig):
    name = "controlplane.fleet"

    def ready(self) -> None:
        # Models are importable only now.
        from controlplane.fleet import billed, node_events, tombstones

        billed.register()
        node_events.register()
        tombstones.register()
