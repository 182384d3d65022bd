from django.apps import AppConfig


class ApiConfig(AppConfig):
    name = "controlplane.api"

    def ready(self) -> None:
        # Models are importable only now.
        from controlplane.api import personal, privacy, retention

        privacy.register()
        retention.register()
        personal.register()
