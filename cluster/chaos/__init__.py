"""Breaking a running local cluster on purpose, and judging from outside whether it kept its promises.

plan.py     which faults, where, for how long: pure, from a seed
faults.py   begins and ends one fault on local machines
load.py     clients that record every answer while faults happen
judge.py    what was promised and did not hold: pure
report.py   the run as text, JSON and one HTML page: pure
run.py      plan, load, faults and verdict together
"""
