"""Ray shells: the only importers of `ray`. Each wires one part from the machine's own files and runs it; no decisions.

`host` runs a part on a loop of its own inside an actor, `roles` says which parts a machine runs, `wiring` builds a part
from what is on the machine's disk, `ensure` (run by sk8-machine) makes this machine's actors exist.
"""
