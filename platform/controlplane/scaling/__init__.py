"""How many replicas an endpoint should have, and how warm it waits. Pure: no Django, no clock.

Vocabulary: *load* is what the gateways hold for an endpoint, *utilization* is that load in
replicas (1.0 is one full one); a *gap* is the time from the last answer to the next request; a
*tier* is how warm an endpoint waits through a gap (hot, asleep, off), with a rent for each second
and a price for coming back; the *break-even* of two tiers is the gap at which both cost the same.

Durations are float seconds, moments are aware datetimes, costs are in seconds of one hot replica.
Everything that is remembered between two calls is a value that the caller keeps.
"""
