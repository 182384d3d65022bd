"""Who may do what.

Words
    organization  a tenant: it belongs to one region, pays from one account, has one audit log.
    project       a part of an organization; endpoints and API keys belong to it.
    member        a person with a role: owner, admin, developer, billing, auditor.
    operator      a person who owns the GPU nodes. That gives no sight of tenants' things.
    API key       what a project's programs call with. It has secrets, one after the other,
                  `sk-stoa-<8 public>-<43 secret>`, kept as keyed hashes.
    principal     who asks: a signed-in person or a key, with what that makes possible.
    permission    what one may need for an act; `access.ROLE_PERMISSIONS` says who has it.

What always holds
    - `access` is the only way to fetch a tenant's things. What is somebody else's is not found;
      forbidden is said only to those who may know that the thing exists.
    - An organization has an owner at all times.
    - A secret is shown once and stored nowhere. A revoked key stays revoked, with all its secrets.
    - Verbs (`services`, `limits`) trust their caller to have asked `access`, and leave one audit
      event each, in their own transaction.
"""
