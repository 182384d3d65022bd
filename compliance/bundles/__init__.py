"""The one signed bundle format of all exports, and its verifier.

Words
    bundle    a ZIP of stored files: manifest.json, manifest.sig, then the manifest's files by path.
    part      one file of it, as it lies on disk until it is packed.
    manifest  canonical JSON with every file's size and SHA-256; its own SHA-256 is signed.
    profile   how much of people is in it: full, pseudonymised or counts-only.

`stoa_verify` is published as it stands and imports nothing of ours.
"""
