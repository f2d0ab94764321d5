"""The workers of benchmarks/cpu.py. Each runs one engine in a separate process, in the engine's environment."""
