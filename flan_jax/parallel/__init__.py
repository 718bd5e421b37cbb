"""Devices and processes: the mesh and its sharding rules, hardware, preemption."""
