"""How fast a model will be on given devices, and what that costs. Pure; a simulation has a seed.

Vocabulary: the *work* is what one step of the engine computes and moves on one device; a *step*
is one pass over a batch (some requests' prompts, one more token for the others), and takes the
time of its roofline under *factors* of efficiency; a *lane* is what steps on its own: an engine,
or one of the pipeline's micro-batches; a *load* is what arrives; a *job* is what is waiting.
"""
