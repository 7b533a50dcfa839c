"""One module per role: `async def build(cluster, machine) -> Part`, from what is on the machine's disk.

Wiring only; decisions are the parts' own.
"""
