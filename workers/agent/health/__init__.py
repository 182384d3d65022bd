"""What a node finds wrong with itself: one small file for each check.

A check looks at one thing and returns `wire.Finding`s for what is wrong now, none for what is
well: levels, as all that a node reports. What becomes of them is the control plane's policy
(controlplane.fleet.health_policy). The names of checks are in docs/nodes.md, each with its cure.
"""
