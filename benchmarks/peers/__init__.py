"""One engine a process: the workers of benchmarks/cpu.py, run by whichever environment has the engine."""
