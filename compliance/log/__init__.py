"""The log that can be checked: a Merkle tree over each log's events, and who signs its head.

Words
    leaf        SHA-256(0x00 || body) of one event, at an index that no other leaf of its log has.
    node        SHA-256(0x01 || left || right); the root of a perfect subtree has a height and an
                index: (0, n) is leaf n, (8, 0) the root over the first 256 leaves.
    root        the Merkle tree hash of RFC 6962, section 2.1, over the leaves of a log.
    checkpoint  origin, size and root of a log as a C2SP signed note (`notes`).
    signer      a process of its own (workers.signer) that has the key, remembers the last head of
                each origin, and refuses what does not follow from it.
    meta log    the log over all other logs' checkpoints, each there as a blinded digest.
    witness     whoever is sent checkpoints and keeps them: each organization, of its own log.
"""
