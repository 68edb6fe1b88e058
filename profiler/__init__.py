"""What a workload does alone: profiles, observations, features, training, model registry."""
