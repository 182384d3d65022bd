"""What runs inside an engine's environment: the standby, the plain start, and their walls.

Vocabulary: the *standby* is a process with vLLM's imports done that serves nobody; a *fork* of
it becomes an engine; a *plain start* is `vllm serve` in a process of its own. Whichever way, the
process raises its *walls* first and then runs what stock `vllm serve` runs.

Nothing here may import the rest of the house: the engine's environment has vLLM and the standard
library, and the house's packages may be of other versions. The agent starts these modules with
`workers.agent.standby.bootstrap`, under the name `launcher`.

Invariants: the standby has one thread, so that a fork of it is sound; it holds no secret, so that
an engine can read none from the memory it inherits; it has touched no GPU.
"""
