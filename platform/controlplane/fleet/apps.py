from django.apps import AppConfig


class FleetConfig(AppConfig):
    name = "controlplane.fleet"

    def ready(self) -> None:
        # Models are importable only now.
        from controlplane.fleet import (
            billed,
            control_rows,
            node_events,
            personal,
            privacy,
            retention,
            tombstones,
        )

        billed.register()
        node_events.register()
        tombstones.register()
        privacy.register()
        control_rows.register()
        retention.register()
        personal.register()
