#!/usr/bin/env bash
# Two machines of eight GPUs under Slurm, from videos to samples: sbatch examples/two_machines.sh
# Killed anywhere, it may be submitted again as it is: what is finished is found and kept.
#SBATCH --nodes 2
#SBATCH --ntasks-per-node 1
#SBATCH --gpus-per-node 8
#SBATCH --exclusive
set -euo pipefail

sana run examples/two_machines.yaml --until bucket
srun sana encode-worker examples/two_machines.yaml # one worker on each machine: index and count from Slurm
sana run examples/two_machines.yaml --until encode_latents

# one rank a GPU: number and meeting place from Slurm
srun --ntasks 16 --ntasks-per-node 8 --kill-on-bad-exit=1 --wait=0 sana train-worker examples/two_machines.yaml
sana run examples/two_machines.yaml
