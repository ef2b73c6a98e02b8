"""Numbers: metrics, protocols, scoring, the linear probe, embeddings."""
