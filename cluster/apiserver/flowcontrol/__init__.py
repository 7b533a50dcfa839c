"""API priority and fairness (KEP-1040): which requests are served now, which wait, which are refused.

rules.py    which FlowSchema a request matches, and which flow of it is its own     pure
levels.py   a priority level's seats and queues                                      pure but for futures
control.py  both together: the slot a request is served in                           futures, metrics
follow.py   the FlowSchemas and PriorityLevelConfigurations as they are stored       IO: the store, the registry
"""
