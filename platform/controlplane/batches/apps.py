from django.apps import AppConfig


class BatchesConfig(AppConfig):
    name = "controlplane.batches"

    def ready(self) -> None:
        # Models are importable only now.
        from controlplane.batches import (
            personal,
            places,
            privacy,
            retention,
            tombstones,
        )

        places.register()
        tombstones.register()
        privacy.register()
        retention.register()
        personal.register()
