"""Everything on one machine: embedded servers, and the supervisor behind `make up`.

Vocabulary: a *server* is somebody else's program that we start (PostgreSQL, Valkey); a
*process* is one of ours (web, gateway, worker, agent). Nothing here imports Django: this code
runs before there are settings, and makes them.
"""
