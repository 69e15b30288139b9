#!/bin/bash
# A run on SLURM: a Ray cluster for as long as the job, the loop on its first machine.
#   sbatch configs/cluster/slurm.sh
#   CONFIG=configs/mine.yaml OUT=/shared/runs/mine sbatch --nodes=4 configs/cluster/slurm.sh
# At its deadline the run stops, the job goes back into the queue, and the run goes on from there.
#SBATCH --job-name=rlrf
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
config=${CONFIG:-configs/cluster/run.yaml}
out=${OUT:-/shared/runs/first}
deadline=${DEADLINE:-3h50m}

# Seconds that machines wait for each other; Ray's own 30 are too few where libraries load slowly.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300 RAY_py_gcs_connect_timeout_s=300
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# On the head: start Ray, wait for the others, run the command, stop Ray; elsewhere: join.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats -- \
  rlrf train "$config" --out "$out" --deadline "$deadline"
code=$?
[ "$code" -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"
exit "$code"
