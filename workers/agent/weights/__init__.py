"""Models on this node: brought from where they are kept, verified, and kept for the next start.

Words
    source      where a model is kept, with one project's credentials for it (wire.Source). It comes
                from the control plane for one fetch and is written nowhere.
    listing     the files of one revision, each with what it can be verified by (`listing`).
    blob        one file's content under its SHA-256.
    snapshot    a revision's files as a folder of hard links to blobs: what an engine reads.
    proof       that a project's own credentials opened a model that is not public (`proofs`).

What always holds
    - A snapshot that can be found is whole and was verified; files are read-only for everybody.
    - After a kill at any line the next fetch goes on from the bytes that are here.
    - A blob of a model that is not public is seen from that model alone: who only knows its hash
      gets nothing of it.
    - What is not public is handed to a project after its own proof.
"""
