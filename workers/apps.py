from importlib import import_module

from django.apps import AppConfig


class WorkersConfig(AppConfig):
    name = "workers"

    def ready(self) -> None:
        """Tasks belong to our Celery application, in the web process too, and signals reach them.

        Not at the top of a module: models exist only now. Not in the package either: the node's
        agent imports it and has no Celery.
        """
        hints = import_module("workers.hints")
        signals = import_module("controlplane.endpoints.signals")
        horizon = import_module("compliance.keys.horizon")
        horizon.register(import_module("workers.backup.config").kept_for)
        import_module("workers.personal").register()
        signals.changed.connect(hints.on_changed, dispatch_uid="workers.hints")
