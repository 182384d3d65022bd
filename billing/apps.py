from django.apps import AppConfig

from compliance import grants


class BillingConfig(AppConfig):
    name = "billing"

    def ready(self) -> None:
        # Models are importable only now.
        from billing import privacy, retention, tombstones

        tombstones.register()
        privacy.register()
        retention.register()
        grants.append_only(
            "billing_usageevent",
            "billing_price",
            "billing_term",
            "billing_nodecertificate",
            "billing_nodebatch",
            "billing_noderecord",
            "billing_meteringdigest",
            "billing_ledgeraccount",
            "billing_ledgertransaction",
            "billing_ledgerentry",
            "billing_credituse",
            "billing_reconciliation",
            "billing_allocation",
            "billing_givenback",
            "billing_bankstatement",
            "billing_collectionfile",
            "billing_ownedcost",
        )
