#!/usr/bin/env bash
# Two machines of eight GPUs under Slurm, from videos to samples: sbatch examples/two_machines.sh
# Killed anywhere, it may be submitted again as it is: what is finished is found and kept.
#SBATCH --nodes 2
#SBATCH --ntasks-per-node 1
#SBATCH --gpus-per-node 8
#SBATCH --exclusive
set -euo pipefail
job=/shared/sana-job.json

sana run examples/two_machines.yaml --until bucket
srun sana encode-worker examples/two_machines.yaml # one worker on each machine: index and count from Slurm
sana run examples/two_machines.yaml --until encode_latents

# The ranks read a job file, which a run writes before it starts to train on this machine alone: two minutes suffice.
mkdir -p /scratch/sana/jobs
rm -f /scratch/sana/jobs/train-*
timeout --signal INT 120 sana run examples/two_machines.yaml --until train || true
written="$(find /scratch/sana/jobs -name 'train-*.json' ! -name '*.result.json')"
if [ -n "$written" ]; then # without one it is trained already, or the last line says what is wrong
  cp "$written" "$job"
  # Rank 0 is on this machine, so that it may take over from the run above at once, however that ended.
  FIRST="$(hostname)"
  export job FIRST
  srun bash -c 'torchrun --nnodes 2 --nproc-per-node 8 --node-rank "$SLURM_NODEID" --master-addr "$FIRST" \
    --master-port 29500 -m sana.workers.train "$job"'
fi
sana run examples/two_machines.yaml
