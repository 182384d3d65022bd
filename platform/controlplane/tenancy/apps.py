from django.apps import AppConfig


class TenancyConfig(AppConfig):
    name = "controlplane.tenancy"

    def ready(self) -> None:
        # Models are importable only now.
        from controlplane.tenancy import (
            billed,
            control_rows,
            datasets,
            personal,
            places,
            privacy,
            retention,
            sign_in,
            tombstones,
        )

        sign_in.connect()
        datasets.register()
        places.register()
        billed.register()
        tombstones.register()
        privacy.register()
        personal.register()
        control_rows.register()
        retention.register()
