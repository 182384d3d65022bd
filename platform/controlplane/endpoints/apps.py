from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks


class EndpointsConfig(AppConfig):
    name = "controlplane.endpoints"

    def ready(self) -> None:
        # Models are importable only now.
        from compliance import grants
        from controlplane.endpoints import (
            billed,
            control_rows,
            personal,
            places,
            privacy,
            retention,
            tombstones,
        )

        grants.append_only("endpoints_placementrecord")
        grants.narrow("endpoints_placementrecord", "SELECT")  # triggers alone write it
        places.register()
        billed.register()
        tombstones.register()
        privacy.register()
        control_rows.register()
        retention.register()
        personal.register()
        checks.register(_recipes)


def _recipes(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Each command of ours says what is wrong with the operator's model recipes."""
    from controlplane.endpoints import recipes

    wrong = recipes.problems(settings.RECIPES_DIR)
    return [checks.Error(text, id="endpoints.E001") for text in wrong]
