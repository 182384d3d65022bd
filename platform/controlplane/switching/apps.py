from django.apps import AppConfig


class SwitchingConfig(AppConfig):
    name = "controlplane.switching"

    def ready(self) -> None:
        # Models are importable only now.
        from compliance import exports
        from controlplane.switching import catalogue, documents, privacy

        exports.register_kind(
            "switching",
            "Everything of this organization, to take it elsewhere",
            catalogue.DATASETS,
            documents=documents.write,
            of=(exports.ORGANIZATION,),
        )
        privacy.register()
