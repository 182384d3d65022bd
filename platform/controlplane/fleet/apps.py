from django.apps import AppConfig


class FleetConfig(AppConfig):
    name = "controlplane.fleet"

    def ready(self) -> None:
        # Models are importable only now.
        from controlplane.fleet import node_events, tombstones

        node_events.register()
        tombstones.register()
