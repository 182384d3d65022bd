"""Engines from images: containers, through the Docker API of whatever runs them here.

`driver` speaks to the engine of containers (podman or Docker), `isolation` says what walls each
container has and looks whether they stand, `images` brings images, `door` is the process beside
each container that joins it to the world, and `replicas` makes a replica's start and stop of these.
"""
