"""Requests in, placements out: planner, predictor, ledger, journal, gRPC service."""
