"""``GET /metrics`` of the control plane: what the ledger knows of services, for Prometheus. Replicas tell of themselves."""
