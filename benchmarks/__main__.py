"""`make bench`: all benchmarks in turn."""

from benchmarks import deciding, learning, ranks

for benchmark in (deciding, learning, ranks):
    print(f"\n{benchmark.__doc__.splitlines()[0]}\n")
    benchmark.main()
