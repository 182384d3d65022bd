from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks


class ResidencyConfig(AppConfig):
    name = "controlplane.residency"

    def ready(self) -> None:
        # Models are importable only now.
        from controlplane.residency import datasets, processing, receipt_command

        datasets.register()
        processing.register()
        receipt_command.register()
        checks.register(_stated)


def _stated(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Each command of ours says where STOA_LOCATIONS cannot be read, or names no store."""
    from controlplane.residency import stated, stores

    try:
        known = stated.parse(settings.LOCATIONS)
    except stated.Unreadable as error:
        return [checks.Error(str(error), id="residency.E001")]
    here = {stated.HOME, *stores.STORES}
    odd = sorted(name for name in known if name not in here and "-" not in name)
    said = f"STOA_LOCATIONS names no store or region: {', '.join(odd)}"
    return [checks.Warning(said, id="residency.W001")] if odd else []
