"""What a round costs besides learning: `bench_federation` measures the server, the sites and the wire."""
