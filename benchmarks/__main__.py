"""`make bench`: all benchmarks in turn."""

from benchmarks import deciding, learning

for benchmark in (deciding, learning):
    print(f"\n{benchmark.__doc__.splitlines()[0]}\n")
    benchmark.main()
