"""The experiment: workloads, agents, demonstration, latency benchmark."""
