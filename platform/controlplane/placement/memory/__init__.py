"""How much memory a model takes on a device under an engine, and what is left for its cache.

Vocabulary: the *budget* is the part of a device that the engine may use; *weights*, *activations*
(the peak of the engine's profiling run), *non-torch* and *graphs* are taken from it; the rest is
the cache's. A quantity is an `Estimate`: p50 is the best guess, p95 what 95 of 100 starts do not
exceed (of a need) or do not fall below (of a capacity).
"""
