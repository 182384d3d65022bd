"""Who may do what.

Words
    organization  a tenant: it belongs to one region, pays from one account, has one audit log.
    project       a part of an organization; endpoints and API keys belong to it.
    member        a person with a role: owner, admin, developer, billing, auditor.
    operator      a person who owns the GPU nodes. That gives no sight of tenants' things.
    API key       a project's secret, `sk-stoa-<8 public>-<43 secret>`, kept as a keyed hash.
    principal     who asks: a signed-in person or a key, with what that makes possible.
    permission    what one may need for an act; `access.ROLE_PERMISSIONS` says who has it.

What always holds
    - `access` is the only way to fetch a tenant's things. What is somebody else's is not found;
      forbidden is said only to those who may know that the thing exists.
    - An organization has an owner at all times.
    - A key's secret is shown once and stored nowhere. A revoked key stays revoked.
    - Verbs (`services`, `keys`) trust their caller to have asked `access`, and leave one audit
      event each, in their own transaction.
"""
