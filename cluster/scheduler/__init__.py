"""The scheduler: which node runs which pod.

`columns` holds every node as a row of NumPy arrays, `shape` what of a pod matters for the decision, `filters` and
`scores` are functions over all rows at once, `decide` places a batch, `queue` says whose turn it is; all of these are
pure. `scheduler` is the shell: informers in, batched binds out, under a lease.
Source: kube-scheduler's default profile (KEP-624, scheduling framework).
"""
