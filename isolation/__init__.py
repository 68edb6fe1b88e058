"""The kernel: topology, cpusets, cgroups, affinity. Knows no workload, model or RPC."""
