"""`make bench`: all benchmarks in turn."""

from benchmarks import deciding, epoch, learning, loader, ranks

for benchmark in (deciding, epoch, learning, loader, ranks):
    print(f"\n{benchmark.__doc__.splitlines()[0]}\n")
    benchmark.main()
